"""Everything that the learner raises by itself.

LearnerError
├── SettingsError    settings that cannot be used: the process ends with one line
├── BaseMismatch     the local base model is not the server's: the process ends with one line
├── TeamLost        another process of the same torchrun is gone: the process ends with one line
├── RoundAborted     this round cannot become a good adapter: discarded, reported, the loop goes on
│   └── LeaseLost    somebody else trains this alias now: discarded, not reported
└── Stopped          the process was asked to end: state is kept, the round is resumed by the next start
"""

from __future__ import annotations


class LearnerError(Exception):
    pass


class SettingsError(LearnerError):
    pass


class BaseMismatch(LearnerError):
    pass


class TeamLost(LearnerError):
    pass


class RoundAborted(LearnerError):
    pass


class LeaseLost(RoundAborted):
    pass


class Stopped(LearnerError):
    pass
