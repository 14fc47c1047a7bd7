"""Personal data of well-known forms. Each class finds one form, and validates what looks like it.

They find forms, not meaning: a name or an address in words is found by none of them, and a number that happens to hold
to a form is found all the same. Each reads a text in linear time.
"""

from reward.rules.pii.base import PiiClass
from reward.rules.pii.card import CreditCard
from reward.rules.pii.email import Email
from reward.rules.pii.iban import Iban
from reward.rules.pii.ip import IpAddress
from reward.rules.pii.phone import Phone
from reward.rules.pii.rule import PiiRule
from reward.rules.pii.ssn import SocialSecurityNumber

CLASSES: dict[str, PiiClass] = {
    one.name: one for one in (Email(), Phone(), Iban(), CreditCard(), IpAddress(), SocialSecurityNumber())
}

__all__ = ["CLASSES", "PiiClass", "PiiRule"]
