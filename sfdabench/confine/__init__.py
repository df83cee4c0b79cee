"""Child processes that can read what they were granted, and nothing else.

A *job* is a function of the package that is given plain values and a channel to its parent. The
parent holds the labels and runs no code of a method; the child computes and holds none.
"""
