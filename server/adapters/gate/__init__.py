"""The gate: is a verified adapter good enough, compared with the active one?

suites      JSONL suites that operators own, and how an answer is scored
statistics  intervals, and what an interval says about a margin (pure)
answers     AnswerBook: sampled answers, each prompt asked once per adapter
rewards     what the alias's ensemble makes of two adapters' answers
checks      the single checks (pure: numbers in, a row of the report out)
gate        Gate: asks the engine what the checks need, and sums up
progress    how far a running gate is
"""
