"""What a program's text tells of its data: who defines a name, who calls a function, what a flag is by default.

Everything here is an approximation that errs on one side: what it cannot follow it does not return. A migration may
conclude something from what is found, never from what is not.
"""
