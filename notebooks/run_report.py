# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: kernelspec,jupytext,-jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Did every promise hold?
#
# A scheduler was put under load, something was broken on purpose, then mended. This report reads the
# record of that run, which was written from outside the scheduler: what clients asked and were answered,
# what the bodies of the jobs did, when each fault set in and was healed. **Question: was any accepted job
# lost, run by a worker that had no right to it any more, retried too early or dead-lettered wrongly, and
# how long did work stand still?**

# %% tags=["parameters"]
run = "../runs/latest"

# %%
# ruff: noqa: A004, D100, ERA001, RUF100, S101  (it shows, asserts, and has a header for Jupytext)
from IPython.display import display

from notebooks.analysis import charts, consistency, latency, tables, timeline
from notebooks.analysis.frames import load

frames = load(run)
display(tables.headline(frames))

# %% [markdown]
# ## The checks
#
# Each check is a pure function over the record. *Invalid* means a promise was broken, *unknown* that the
# run could not show whether it held (no fault fired, nothing was in flight, no drain), which is no pass.

# %%
display(tables.verdict_table(frames))

# %%
problems = consistency.problems(frames)
assert not problems, "; ".join(problems)
print(f"The record is sound: {len(frames.operations):,} operations, {len(frames.executions):,} executions.")

# %% [markdown]
# ## What the numbers leave plausible

# %%
display(tables.bounds(frames))

# %% [markdown]
# ## The faults
#
# Injected and healed by calls that take time themselves, so an onset lies within an interval. The
# coloured bands in every chart below are these faults, in lanes at the top; dotted lines divide the
# phases of the run.

# %%
display(tables.fault_table(frames))

# %% [markdown]
# ## Submitting
#
# How long a client waits for "accepted". Time counts from when a job was *meant* to be submitted: a
# generator that is held up by slow answers would otherwise hide them (coordinated omission). In the right
# panel, rare slow answers show as a long tail.

# %%
display(latency.submit_latency(frames))

# %%
display(latency.submit_latency_over_time(frames))

# %% [markdown]
# ## From submit to final status
#
# What a user of the queue feels: waiting, running, and every retry. Jobs of different types take
# different times by design, so each has its own curve; a job that always fails needs all of its retries
# before it is final.

# %%
display(latency.end_to_end_latency(frames))

# %%
display(latency.end_to_end_latency_over_time(frames))

# %% [markdown]
# ## Throughput and backlog
#
# During a fault the accepted line should go on while the finished one may fall; after the healing the
# backlog has to go back to nothing, in PostgreSQL and in Redis alike.

# %%
display(charts.throughput(frames))

# %%
display(charts.backlog(frames))

# %% [markdown]
# ## Retries
#
# A failed attempt is promised another after 2 s, 4 s, 8 s, never earlier. Later happens when nobody could
# promote or run it: look whether a fault explains the distance.

# %%
display(charts.retries(frames))

# %% [markdown]
# ## Recovery
#
# A dead worker's jobs are promised to start again within lease + 1 s.

# %%
display(charts.recovery(frames))

# %% [markdown]
# ## What each worker did

# %%
display(timeline.timeline(frames))

# %% [markdown]
# ## To doubt it, or to repeat it
#
# Tests show broken promises, not their absence. The schedule of faults is data in the run's folder; the
# same seed makes the same schedule and the same jobs, though not the same thread switches.

# %%
display(tables.watermark(frames))

# %%
display(tables.reproduce(frames))
