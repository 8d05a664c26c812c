/*
 * budget.h - how many prompt tokens may ride along in one decode step.
 *
 * Pure: no clocks, no threads.  A step carries one token of every decoding stream; each prompt
 * token added makes all of them wait longer (16 cost 2.6 times a plain step, 512 cost 55 times),
 * while prompts by themselves gain nothing from bigger chunks.
 */
#ifndef WYVERN_SCHED_BUDGET_H
#define WYVERN_SCHED_BUDGET_H

#define BUDGET_STEP_TOKENS 512 /* most prompt tokens of one step */
#define BUDGET_BESIDE      16  /* while others decode, and at most as many wait as decode */

/* Prompt tokens for the next step: all of BUDGET_STEP_TOKENS when nobody decodes, else
 * BUDGET_BESIDE for each whole time that more streams wait than decode, so that a burst of prompts
 * does not queue behind the one that came first. */
unsigned budget_prefill(unsigned decoding, unsigned waiting);

#endif
