"""`python -m server.mining`: criteria for the `judge` scorer, mined from pairs of which people chose one answer.

CritiQ, Guo et al. 2025, https://arxiv.org/abs/2502.19279: a critic writes criteria from some thirty pairs, each is
judged by how often it decides as people did, and those that fail are written anew with what they got wrong in sight.

1. The paper's workers may abstain where a criterion says nothing about a pair; here the judge says "tie", by asking in
   both orders. Accuracy is over the pairs that a criterion decides.
2. It keeps what is accurate on the pairs that the critic has read. Here other pairs decide, which no critic has seen: a
   criterion is kept where the lower end of its 95% interval (Wilson) is above a threshold.
3. It knows criteria of earlier work, and trains a scorer of its own. Neither is done here: a judge takes the criteria.

critic   what the critic is asked, and what it says
mining   write → judge → refine → keep

`plumbline reward criteria` starts it and feeds it: pairs on standard input, lines on standard output
(`server/wire/mining.py`).
"""
