"""Evidence for the quirks: functions that take the opened reference, run official code, and say what they saw.

A function confirms its quirk only by what official code did when it was called. Where the reference has mended it, the
function says so; where the reference is too old to have it, it raises `NotHereError`.
"""
