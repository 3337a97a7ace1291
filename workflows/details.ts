import { setCurrentDetails, upsertSearchAttributes, workflowInfo } from '@temporalio/workflow';
import { defineSearchAttributeKey } from '@temporalio/common';
import type { RunStatus, StageState, TrainProgress } from '../contracts/pipeline.js';

/** Kept up to date on runs that were started with it, as a server refuses attributes that are not registered. */
const stageAttribute = defineSearchAttributeKey('TemperStage', 'KEYWORD');

/** Writes the run's page in the UI. */
export function publishDetails(status: RunStatus): void {
  setCurrentDetails(renderDetails(status));
  const current = workflowInfo().typedSearchAttributes.get(stageAttribute);
  if (current !== undefined && current !== status.stage) upsertSearchAttributes([{ key: stageAttribute, value: status.stage }]);
}

const states: Record<StageState, string> = {
  pending: '·', running: '▶ running', done: '✓ done', reused: '✓ reused', skipped: '– skipped', failed: '✗ failed',
};

/** Markdown: the stages, the figures of training, notes, and what has been made. */
export function renderDetails({ stages, progress, train, notes, artifacts }: RunStatus): string {
  const rows = stages.map(({ name, state, seconds }) => {
    const doing = state === 'running' && progress ? `${states[state]}: ${progress.phase}${share(progress.done, progress.total)}` : states[state];
    return `| ${name} | ${doing} | ${seconds === undefined ? '' : `${seconds.toFixed(1)} s`} |`;
  });
  const made = Object.entries(artifacts).map(([name, uri]) => `- ${name}: \`${uri}\``);
  return [
    ['| stage | state | took |', '|---|---|---:|', ...rows].join('\n'),
    ...(train ? [renderTraining(train)] : []),
    ...(notes.length > 0 ? [notes.map((note) => `> ${note}`).join('\n')] : []),
    ...(made.length > 0 ? [made.join('\n')] : []),
  ].join('\n\n');
}

const share = (done: number, total: number) => (total > 0 ? ` ${Math.floor((100 * done) / total)} %` : '');

function renderTraining({ step, steps, epoch, loss, evalLoss, learningRate, tokensPerSecond, etaSeconds }: TrainProgress): string {
  return [
    '| step | epoch | loss | eval loss | learning rate | tokens/s | left |',
    '|---:|---:|---:|---:|---:|---:|---:|',
    `| ${step} / ${steps} | ${epoch.toFixed(2)} | ${loss.toFixed(4)} | ${evalLoss?.toFixed(4) ?? ''} | ${learningRate.toExponential(2)} | ${Math.round(tokensPerSecond)} | ${duration(etaSeconds)} |`,
  ].join('\n');
}

function duration(seconds: number): string {
  const whole = Math.round(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60)];
  if (hours > 0) return `${hours} h ${minutes} min`;
  return minutes > 0 ? `${minutes} min ${whole % 60} s` : `${whole} s`;
}
