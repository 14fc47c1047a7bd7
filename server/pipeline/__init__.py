"""A request's way through the server: admit → media → input rules → route → generate → judge → select → commit.

admission   how many requests are in work, how many may wait
containers  image containers without their metadata
media       images of a request: bounded, decoded once, hashed
sanitise    texts that would be special tokens become plain text
assemble    the wire's messages as a Prompt
judges      a configured alias as safety policy and ensemble
pipeline    the way itself
recording   what happened as the one record that everything learns from
"""
