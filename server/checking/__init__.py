"""`python -m server.checking`: how good an alias's scorers are on pairs of which the better answer is known.

`plumbline reward check` starts it and feeds it: pairs on standard input, lines on standard output
(`server/wire/reward.py`). The scorers are built from the configuration as the server builds them; no server has to run.
"""
