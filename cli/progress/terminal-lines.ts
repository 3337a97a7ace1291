import type { RunStatus, StageStatus } from '../../contracts/pipeline.js';
import { fit, formatSeconds } from '../format.js';
import { bar } from './bar.js';

const marks: Record<StageStatus['state'], string> = { pending: '·', running: '▸', done: '✓', reused: '✓', skipped: '–', failed: '✗' };

/** A run's stages, one a line, with live figures under the one that is running. For a terminal that is repainted. */
export function terminalLines(status: RunStatus, columns: number): string[] {
  const lines = status.stages.flatMap((stage) => [stageLine(stage), ...(stage.state === 'running' ? runningLines(status, stage) : [])]);
  return [...lines, ...status.notes.map((note) => `  note: ${note}`)].map((line) => fit(line, columns));
}

function stageLine({ name, state, seconds }: StageStatus): string {
  const tail = state === 'reused' ? 'reused' : seconds !== undefined && state === 'done' ? formatSeconds(seconds) : '';
  return `  ${marks[state]} ${name.padEnd(10)}${tail}`.trimEnd();
}

function runningLines(status: RunStatus, stage: StageStatus): string[] {
  const { train, progress } = status;
  if (stage.name === 'train' && train && progress?.train) {
    return [`      ${bar(train.step / train.steps, 24)} step ${train.step}/${train.steps}  ${trainFigures(train)}`];
  }
  if (progress?.stage !== stage.name || progress.phase === '') return [];
  const share = progress.total > 0 ? `${bar(progress.done / progress.total, 24)} ` : '';
  return [`      ${share}${progress.phase}`];
}

/** `loss 2.913  312 tok/s  48 s left` */
export function trainFigures({ loss, evalLoss, tokensPerSecond, etaSeconds }: NonNullable<RunStatus['train']>): string {
  const parts = [`loss ${loss.toFixed(3)}`, `${Math.round(tokensPerSecond)} tok/s`, `${formatSeconds(Math.round(etaSeconds))} left`];
  if (evalLoss !== undefined) parts.splice(1, 0, `eval ${evalLoss.toFixed(3)}`);
  return parts.join('  ');
}
