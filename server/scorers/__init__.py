"""Scorers that ask somebody else: a model behind HTTP, a process of ours, an operator's program.

    factory     builds an alias's scorers from its settings, and owns what they share
    watched     what every one of them is watched for: failures, and saying the same of everything
    judge       a model as a judge over an OpenAI endpoint (`judging`: its questions and verdicts, `tournament`: who
                meets whom)
    pooling     a reward model behind vLLM's pooling routes
    clip        likeness of image and text, in a worker process (`clip_worker`)
    program     an operator's command (`limited`: its limits)

They keep the port's promises (`reward/ports.py`): whatever goes wrong is raised, and the ensemble goes on without them.
"""
