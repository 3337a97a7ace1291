import type { RunStatus, StageStatus } from '../../contracts/pipeline.js';
import { formatSeconds } from '../format.js';
import { trainFigures } from './terminal-lines.js';

/** Training steps are told at these shares of the way, so that a log stays short however long a run is. */
const tellEvery = 0.05;

/** What has happened between two looks at a run, one line each. For a log. */
export function logLines(previous: RunStatus | undefined, next: RunStatus): string[] {
  const lines = next.stages.flatMap((stage) => stageLines(previous?.stages.find(({ name }) => name === stage.name), stage));
  const step = trainLine(previous?.train, next.train);
  const phase = phaseLine(previous, next);
  return [...lines, ...(phase ? [phase] : []), ...(step ? [step] : []), ...next.notes.slice(previous?.notes.length ?? 0).map((note) => `note: ${note}`)];
}

function stageLines(previous: StageStatus | undefined, { name, state, seconds }: StageStatus): string[] {
  if (previous?.state === state) return [];
  switch (state) {
    case 'running':
      return [`${name} …`];
    case 'done':
      return [seconds === undefined ? `${name} done` : `${name} done in ${formatSeconds(seconds)}`];
    case 'reused':
      return [`${name} reused`];
    case 'failed':
      return [`${name} failed`];
    default:
      return [];
  }
}

function phaseLine(previous: RunStatus | undefined, { progress }: RunStatus): string | undefined {
  if (!progress || progress.train || progress.phase === '') return undefined;
  const before = previous?.progress;
  return before?.stage === progress.stage && before.phase === progress.phase ? undefined : `${progress.stage}: ${progress.phase}`;
}

function trainLine(previous: RunStatus['train'], next: RunStatus['train']): string | undefined {
  if (!next || next.step === previous?.step) return undefined;
  const mark = ({ step, steps }: { step: number; steps: number }): number => Math.floor(step / steps / tellEvery);
  if (previous && mark(previous) === mark(next)) return undefined;
  return `train: step ${next.step}/${next.steps}  ${trainFigures(next)}`;
}
