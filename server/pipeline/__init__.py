"""A request's way through the server: media → route → admit → input rules → generate → judge → select → commit.

fetch/      images by address: one parser, resolved once and pinned, bounded
containers  image containers without their metadata
decoding    every image is decoded once, in a bounded pool; aside: in a process of its own
budget      how many bytes of images are held at once
vision      does the model see?
media       images of a request: all of the above
admission   how many requests are in work, how many may wait; fair between tenants
sanitise    texts that would be special tokens become plain text
assemble    the wire's messages as a Prompt
judges      a configured alias as safety policy and ensemble
asking      what a request asks of the engine
waves       candidates in waves, as many as are worth it; early: the weaker ones are given up as they grow
stepwise    the answer sentence by sentence, each the best of several
pipeline    the way itself
shadow      another adapter answers too, unseen
recording   what happened as the one record that everything learns from
"""
