"""Agreement: terms, votes, promises, leases and the cluster document. Pure.

Gossip says who is probably alive; this package decides who leads. It imports nothing of
`metako.membership`: what it needs to know of its peers is passed in as values.
"""
