"""What runs in nodes, and what they say.

console     what nodes report on their consoles, and following it
"""
