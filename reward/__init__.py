"""What "better" and "safe" mean: scorers, safety rules, ensembles and selection.

Pure, or with I/O through an injected client. Imports nothing else of the project, and no model code.

    types       Prompt, Candidate, Score, Verdict: the values that everything else passes around
    ports       Scorer, Rule, ImageRule and Guard: what an implementation promises
    rules/      safety rules (hard filter, fail closed); rules/pii: personal data, class by class
    scorers/    scorers (taste, fail open)
    policy      applies the rules to texts, whole or growing, fail closed
    redaction   puts replacements in the place of what rules found; escapes: what a JSON text says
    ensemble    combines scores, fail open
    selection   chooses one feasible candidate, with its exact probability
"""
