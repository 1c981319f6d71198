"""Coverage-guided fuzzing of every parser: whatever the bytes, a value or a typed error.

parsers.py     one entry for each module of formats/
seeds.py       what fuzzing begins with: files that the stores write
checksums.py   checksums that are always right, so that what lies behind them is reached
corpus.py      the inputs that are kept, one file for each parser
target.py      one parser under the fuzzer, as a process of its own (needs the extra ``fuzz``)
__main__.py    the command
"""
