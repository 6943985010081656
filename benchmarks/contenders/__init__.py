"""What runs in the processes of the contenders, in their own environments: standard library, numpy and psutil only.

These files are run as scripts (`python benchmarks/contenders/logging_child.py …`), so they import each other by plain names.
"""
