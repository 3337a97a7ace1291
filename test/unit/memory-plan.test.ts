import { describe, expect, it } from 'vitest';
import type { TokenRows } from '../../engine/data/batches.js';
import type { LlamaModel } from '../../engine/model/load.js';
import type { MemoryChoices, Replayer } from '../../engine/tensor/replay.js';
import { planPasses, surveyPasses, type PlanJob } from '../../engine/train/memory-plan.js';
import type { GradientPasses, LossPasses, PassSize } from '../../engine/train/passes.js';
import { planTraining } from '../../engine/train/plan.js';

const GiB = 2 ** 30;
/** A token's activations kept and recomputed, and the copies. */
const KEPT = 2 ** 22, RECOMPUTED = 2 ** 18, COPIES = 6 * GiB;

/** A device with so much free memory, on which passes take what the constants say. */
function planWith(free: number, options: { checkpointing?: boolean; accumulation?: number; rows?: number; passes?: number; batchSize?: number } = {}) {
  let choices: MemoryChoices | undefined;
  const replayer = {
    settle: () => undefined, memory: () => ({ inUse: 2 * GiB, workspace: 2 ** 25, free }), choose: (chosen: MemoryChoices) => void (choices = chosen),
  } as unknown as Replayer;
  const passes = {
    recompute: false, logits: undefined as number | undefined,
    measure: ({ tokens }: PassSize) => ({
      reserved: tokens * (passes.recompute ? RECOMPUTED : KEPT), lasting: choices!.copies ? COPIES : 0, byPurpose: new Map([['a chunk of logits', 2 ** 26], ['a linear layer', 2 ** 30]]),
    }),
  };
  const job: PlanJob = {
    model: { config: { vocabSize: 32_000 }, embedding: {}, head: {}, blocks: [] } as unknown as LlamaModel,
    train: { batchSize: options.batchSize ?? 4, accumulation: options.accumulation ?? 4, checkpointing: options.checkpointing ?? false },
    trainable: 1e6, passes: passes as unknown as GradientPasses, losses: {} as LossPasses, rows: options.rows,
    survey: (rows) => ({ largest: { tokens: rows * 256, counted: rows * 256 }, passes: options.passes ?? 900, widths: 25 }),
  };
  const { rows, recompute, description } = planPasses(replayer, job);
  return { rows, recompute, description, logits: passes.logits, ...choices! };
}

describe('planPasses', () => {
  it('computes the micro-batches of a step together and keeps copies, where memory allows', () => {
    const plan = planWith(78 * GiB);
    expect(plan).toMatchObject({ rows: 16, recompute: false, copies: true, offload: false, tune: false });
    expect(plan.description).toMatch(/^memory plan: base 1\.95 GiB, its copies in bf16 6\.00 GiB, .* activations 15\.94 GiB, logits chunk 0\.06 GiB, workspace 0\.03 GiB, in all 24\.00 GiB of 80\.00 GiB; a pass is 16 rows, at most 4096 tokens: 4 micro-batches/);
  });

  it('gives up copies first, then large passes, then kept activations', () => {
    expect(planWith(20 * GiB)).toMatchObject({ rows: 16, recompute: false, copies: false });
    expect(planWith(15 * GiB)).toMatchObject({ rows: 8, recompute: false, copies: true });
    expect(planWith(5 * GiB)).toMatchObject({ rows: 4, recompute: false, copies: false });
    expect(planWith(2 * GiB)).toMatchObject({ rows: 4, recompute: true, copies: false, offload: true });
  });

  it('makes passes no longer than products gain from', () => {
    expect(planWith(1000 * GiB, { accumulation: 32 }).rows).toBe(32);
  });

  it('spends little where blocks are to be recomputed', () => {
    expect(planWith(78 * GiB, { checkpointing: true })).toMatchObject({ rows: 4, recompute: true, copies: false, offload: true });
  });

  it('makes chunks of logits large but where little is to be spent, whatever is free: the order of sums depends on them', () => {
    for (const free of [78, 15, 2]) expect(planWith(free * GiB).logits).toBe(2 ** 26);
    expect(planWith(78 * GiB, { checkpointing: true }).logits).toBe(2 ** 24);
    expect(planWith(78 * GiB, { checkpointing: true, batchSize: 32 }).logits).toBe(1024 * 32_000);
    expect(planWith(78 * GiB, { checkpointing: true, batchSize: 256 }).logits).toBe(2 ** 26);
  });

  it('keeps to what a checkpoint says', () => {
    expect(planWith(20 * GiB, { rows: 8 })).toMatchObject({ rows: 8, copies: true });
  });

  it('measures algorithms where each width comes up often', () => {
    expect(planWith(78 * GiB, { passes: 25 * 300 }).tune).toBe(true);
    expect(planWith(78 * GiB, { passes: 25 * 300 - 1 }).tune).toBe(false);
  });

  it('tells, when memory runs out, what was planned and what would help', () => {
    expect(planWith(2 * GiB).plan).toMatch(/^memory plan: .*train\.batchSize.*train\.checkpointing.*format\.maxLength/);
  });
});

describe('surveyPasses', () => {
  it('finds the largest pass in any epoch, joined as it will be, and counts passes and widths', () => {
    const lengths = [10, 200, 30, 140, 50];
    const rows: TokenRows = { count: 5, length: (row) => lengths[row], ids: (row) => new Int32Array(lengths[row]), mask: (row) => new Uint8Array(lengths[row]).fill(1, 2) };
    const options = { rows: 5, batchSize: 1, accumulation: 2, epochs: 2 };
    const order = (epoch: number) => (epoch === 0 ? [0, 1, 2, 3, 4] : [1, 3, 0, 2, 4]);
    expect(surveyPasses(rows, order, options, planTraining(options), 2)).toEqual({ largest: { tokens: 340, counted: 336 }, passes: 6, widths: 3 });
    expect(surveyPasses(rows, order, options, planTraining(options), 1)).toEqual({ largest: { tokens: 200, counted: 198 }, passes: 10, widths: 2 });
  });
});
