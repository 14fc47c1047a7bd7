"""What a canary's answers prove. Pure: no database, no clock, no asyncio. In plain words: `docs/canary.md`.

trial     Trial: one canary's run, its verdict
metrics   thumbs, rewards, latency, safety, errors: each with a test of harm and one of non-inferiority
matching  canary and active contributions matched in time
betting   evidence that may be looked at after every answer
users     who has contributed already
summary   figures and plain words for the report
"""
