import type { TrainConfig } from '../../contracts/fine-tune-config.js';
import { lineWidth, type TokenRows } from '../data/batches.js';
import type { LlamaModel } from '../model/load.js';
import { DEFAULT_LOGITS } from '../tensor/linear-cross-entropy.js';
import type { MeasuredMemory, Replayer } from '../tensor/replay.js';
import type { FrozenWeight } from '../tensor/weight-types.js';
import type { GradientPasses, LossPasses, PassSize } from './passes.js';
import { mergePasses, placeOf, type Plan, type PlanOptions } from './plan.js';

/** How a step's rows are computed. */
export interface PassPlan {
  /** Rows of a pass: a multiple of the micro-batch's, which it computes at once. */
  rows: number;
  /** Run the blocks again in the backward pass. */
  recompute: boolean;
  /** One line for people. */
  description: string;
}

export interface PlanJob {
  model: LlamaModel;
  train: Pick<TrainConfig, 'batchSize' | 'accumulation' | 'checkpointing'>;
  /** Trainable values. */
  trainable: number;
  passes: GradientPasses;
  /** Of the evaluation. */
  losses: LossPasses;
  /** The passes of the training, by the rows of a pass. */
  survey: (rows: number) => PassSurvey;
  /** The largest of the evaluation; absent where nothing is evaluated. */
  evaluation?: PassSize;
  /** Rows of a pass, decided before. */
  rows?: number;
}

/** All passes of a training. */
export interface PassSurvey {
  largest: PassSize;
  passes: number;
  /** Different widths among them. */
  widths: number;
}

/** Passes of a width from which on measuring its products' algorithms costs less than it saves, and memory to be left for that. */
const TUNED_PASSES = 300, TUNING_BYTES = 2 ** 29;
/** Tokens up to which micro-batches are computed together: beyond, the matrix products are long enough anyhow. */
const MERGED_TOKENS = 8192;
/** Logits of a training's pass that exist at one time: 256 MiB, and half of that for their gradient. Fewer chunks make longer products. */
const LOGITS = 2 ** 26;
/** Where memory is to be spared, those of so much of the pass's tokens: they take less than a layer's gradients. */
const SPARED_SHARE = 1 / 8;
/**
 * `GradientPasses.logits` of a training. What is free has no say, as the order of sums depends on it: a resumed training with the same options
 * goes on as it began.
 * @param tokens of the largest pass
 */
export const logitsAtOnce = ({ checkpointing }: Pick<TrainConfig, 'checkpointing'>, tokens: number, vocabulary: number): number =>
  checkpointing ? Math.min(LOGITS, Math.max(DEFAULT_LOGITS, tokens * SPARED_SHARE * vocabulary)) : LOGITS;
/** Share of the free memory that may be spent: measured figures are that good. */
const SHARE = 0.95;

/**
 * Measures what passes would take, and chooses: micro-batches of a step are computed together, activations kept, and the quantised
 * matrices kept in bf16 beside their codes, as far as memory goes. `train.checkpointing` spends as little as can be, also on logits.
 */
export function planPasses(replayer: Replayer, job: PlanJob): PassPlan {
  const weights = weightsOf(job.model);
  replayer.settle(weights);
  const before = replayer.memory();
  const { batchSize } = job.train;
  const measured = (rows: number, recompute: boolean, copies: boolean): Candidate => {
    replayer.choose({ copies, offload: recompute });
    job.passes.recompute = recompute;
    const survey = job.survey(rows), size = survey.largest;
    job.passes.logits = logitsAtOnce(job.train, size.tokens, job.model.config.vocabSize);
    const training = job.passes.measure(size), evaluation = job.evaluation && job.losses.measure(job.evaluation);
    const pass = evaluation && evaluation.reserved > training.reserved ? evaluation : training;
    const needed = pass.reserved + pass.lasting;
    return { rows, recompute, copies, survey, pass, needed, fits: needed <= before.free * SHARE };
  };

  let chosen: Candidate | undefined;
  for (const [rows, recompute, copies] of candidates(job)) {
    chosen = measured(rows, recompute, copies);
    if (chosen.fits) break;
  }
  const { rows, recompute, copies, survey: { largest, passes, widths }, pass, needed } = chosen!;
  const adapter = 8 * job.trainable, optimizer = 8 * job.trainable;
  const logits = [...pass.byPurpose].reduce((sum, [purpose, bytes]) => sum + (purpose.includes('logits') ? bytes : 0), 0);
  const merged = rows / batchSize;
  const description = [
    `memory plan: base ${gibibytes(before.inUse - adapter - optimizer - before.workspace)}`,
    ...(copies ? [`its copies in bf16 ${gibibytes(pass.lasting)}`] : []),
    `adapter and its gradients ${gibibytes(adapter)}`, `optimizer ${gibibytes(optimizer)}`,
    `activations ${gibibytes(pass.reserved - logits)}${recompute ? ' (recomputed; inputs of the halves and attention\'s results in the host\'s memory)' : ''}`,
    `logits chunk ${gibibytes(logits)}`, `workspace ${gibibytes(before.workspace)}`,
    `in all ${gibibytes(before.inUse + needed)} of ${gibibytes(before.inUse + before.free)}; a pass is ${rows} rows, at most ${largest.tokens} tokens` +
      (merged > 1 ? `: ${merged} micro-batches are computed together` : ''),
  ].join(', ');
  const advice = 'a smaller train.batchSize with more train.accumulation, train.checkpointing: true, or a lower format.maxLength needs less';
  const tune = passes >= widths * TUNED_PASSES && needed + TUNING_BYTES <= before.free * SHARE;
  replayer.choose({ copies, offload: recompute, tune, plan: `${description}; ${advice}` });
  job.passes.recompute = recompute;
  return { rows, recompute, description };
}

interface Candidate {
  rows: number;
  recompute: boolean;
  copies: boolean;
  survey: PassSurvey;
  pass: MeasuredMemory;
  /** Bytes beside what is there. */
  needed: number;
  fits: boolean;
}

/** Rows of a pass, whether the blocks are recomputed, whether copies are kept; the best first. */
function candidates({ train: { batchSize, accumulation, checkpointing }, survey, rows }: PlanJob): [number, boolean, boolean][] {
  if (checkpointing) return [[rows ?? batchSize, true, false]];
  const multiples = Array.from({ length: accumulation }, (_, i) => accumulation - i).filter((count) => accumulation % count === 0);
  const sizes = rows === undefined
    ? multiples.map((count) => count * batchSize).filter((size) => size === batchSize || survey(size).largest.tokens <= MERGED_TOKENS)
    : [rows];
  return [
    ...sizes.flatMap((size): [number, boolean, boolean][] => [[size, false, true], [size, false, false]]),
    [rows ?? batchSize, true, true], [rows ?? batchSize, true, false],
  ];
}

/** Goes through the passes over some rows in all epochs of a training. */
export function surveyPasses(rows: TokenRows, order: (epoch: number) => readonly number[], options: PlanOptions, plan: Plan, rowsPerPass: number): PassSurvey {
  const lengths = Array.from({ length: rows.count }, (_, row) => rows.length(row));
  const counts = Array.from({ length: rows.count }, (_, row) => rows.mask(row).reduce((sum, counts, i) => sum + (i > 0 ? counts : 0), 0));
  const largest: PassSize = { tokens: 0, counted: 0 }, widths = new Set<number>();
  let passes = 0;
  for (let epoch = 0; epoch < plan.epochs; epoch++) {
    const epochOrder = order(epoch);
    for (let step = epoch * plan.stepsPerEpoch; step < Math.min((epoch + 1) * plan.stepsPerEpoch, plan.steps); step++) {
      for (const { from, to } of mergePasses(placeOf(step, options, plan).microBatches, rowsPerPass / options.batchSize)) {
        let tokens = 0, counted = 0;
        for (const row of epochOrder.slice(from, to)) {
          tokens += lengths[row];
          counted += counts[row];
        }
        largest.tokens = Math.max(largest.tokens, tokens);
        largest.counted = Math.max(largest.counted, counted);
        widths.add(lineWidth(tokens));
        passes++;
      }
    }
  }
  return { largest, passes, widths: widths.size };
}

const weightsOf = ({ embedding, head, blocks }: LlamaModel): FrozenWeight[] => [
  ...new Set([embedding, head, ...blocks.flatMap(({ linear }) => Object.values(linear))]),
];

const gibibytes = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(2)} GiB`;
