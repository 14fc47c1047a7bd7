"""What "better" and "safe" mean: scorers, safety rules, ensembles and selection.

Pure, or with I/O through an injected client. Imports nothing else of the project, and no model code.

    types       Prompt, Candidate, Score, Verdict: the values that everything else passes around
    ports       Scorer and Rule: what an implementation promises
    rules/      safety rules (hard filter, fail closed)
    scorers/    scorers (taste, fail open)
    policy      applies the rules to a text, fail closed
    ensemble    combines scores, fail open
    selection   chooses one feasible candidate, with its exact probability
"""
