import type { Plan } from './plan.js';

/** An optimizer step in the log. Names are transformers'. */
export interface StepLog {
  epoch: number;
  grad_norm: number;
  learning_rate: number;
  /** nats a counted token. */
  loss: number;
  /** Tokens trained on so far, padding not among them. */
  num_input_tokens_seen: number;
  step: number;
}
/** An evaluation in the log. */
export interface EvalLog {
  epoch: number;
  eval_loss: number;
  /** Counted tokens of the test split. */
  eval_tokens: number;
  step: number;
}
/** The last entry of a finished training. */
export interface FinalLog {
  epoch: number;
  step: number;
  /** Mean of the steps' losses. */
  train_loss: number;
}
export type LogEntry = StepLog | EvalLog | FinalLog;

/**
 * `trainer_state.json` as transformers writes it, so that its plotting tools read it. Nothing in it depends on the clock: two runs
 * of the same training give the same bytes.
 */
export interface TrainerState {
  best_global_step: number | null;
  best_metric: number | null;
  best_model_checkpoint: null;
  epoch: number;
  eval_steps: number | null;
  global_step: number;
  is_hyper_param_search: false;
  is_local_process_zero: true;
  is_world_process_zero: true;
  log_history: LogEntry[];
  logging_steps: 1;
  max_steps: number;
  num_input_tokens_seen: number;
  num_train_epochs: number;
  save_steps: number;
  total_flos: number;
  train_batch_size: number;
  trial_name: null;
  trial_params: null;
}

export interface HistoryOptions {
  plan: Plan;
  evalEvery: 'epoch' | number;
  checkpointEvery: number;
  batchSize: number;
}

export function newTrainerState({ plan, evalEvery, checkpointEvery, batchSize }: HistoryOptions): TrainerState {
  return {
    best_global_step: null, best_metric: null, best_model_checkpoint: null, epoch: 0,
    eval_steps: evalEvery === 'epoch' ? null : evalEvery, global_step: 0, is_hyper_param_search: false,
    is_local_process_zero: true, is_world_process_zero: true, log_history: [], logging_steps: 1, max_steps: plan.steps,
    num_input_tokens_seen: 0, num_train_epochs: plan.epochs, save_steps: checkpointEvery, total_flos: 0,
    train_batch_size: batchSize, trial_name: null, trial_params: null,
  };
}

export function logStep(state: TrainerState, entry: StepLog, flos: number): void {
  state.log_history.push(entry);
  state.epoch = entry.epoch;
  state.global_step = entry.step;
  state.num_input_tokens_seen = entry.num_input_tokens_seen;
  state.total_flos += flos;
}

export function logEval(state: TrainerState, entry: EvalLog): void {
  state.log_history.push(entry);
  if (state.best_metric === null || entry.eval_loss < state.best_metric) {
    state.best_metric = entry.eval_loss;
    state.best_global_step = entry.step;
  }
}

/** Evaluations in a row, up to the last, that did not lower the best loss before them by more than `minDelta`: transformers' patience counter. */
export function evaluationsWithoutGain(state: TrainerState, minDelta: number): number {
  let best = Infinity, count = 0;
  for (const entry of state.log_history) {
    if (!('eval_loss' in entry)) continue;
    count = best - entry.eval_loss > minDelta ? 0 : count + 1;
    best = Math.min(best, entry.eval_loss);
  }
  return count;
}

/** Mean loss over the steps logged so far. */
export function meanTrainLoss({ log_history }: TrainerState): number {
  const losses = log_history.filter((entry): entry is StepLog => 'loss' in entry).map(({ loss }) => loss);
  return losses.reduce((sum, loss) => sum + loss, 0) / losses.length;
}

export const lastEval = ({ log_history }: TrainerState): EvalLog | undefined =>
  log_history.filter((entry): entry is EvalLog => 'eval_loss' in entry).at(-1);

export const trainerStateJson = (state: TrainerState): string => `${JSON.stringify(state, null, 2)}\n`;
