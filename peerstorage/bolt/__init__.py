"""The wire: messages of the BOLTs as bytes, and who offers what by its feature bits.

What is here reads what peers send, so all that breaks the specification is refused by name. Never here: what a
blob means, and who may send one.
"""
