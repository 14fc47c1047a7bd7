"""What a canary's answers prove. Pure: no database, no clock, no asyncio.

trial    Trial: one canary's run, its verdict and its summary
betting  evidence that may be looked at after every answer
"""
