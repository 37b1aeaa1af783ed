"""First divergence: which operation is the first whose result differs, on both sides, by the content of tensors.

Both sides run under a dispatch mode (`record`), which keeps of every tensor a few numbers (`fingerprint`). From a
result that differs, `frontier` walks back through operations whose results the other side never has, to those all of
whose inputs it has: there the difference begins. `course` goes on from there: the subject runs again (`watch`) with
official's values put in (`replay`) and official's random draws (`tape`), which brings out the next fault. `words` tells
what `locate` finds. No name of a module is needed, and a rewrite that comes to the same tensors again raises nothing.
"""
