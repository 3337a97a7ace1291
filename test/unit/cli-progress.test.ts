import { describe, expect, it } from 'vitest';
import { stageNames, type RunStatus, type StageName, type StageState } from '../../contracts/pipeline.js';
import { logLines } from '../../cli/progress/log-lines.js';
import { progressView } from '../../cli/progress/progress-view.js';
import { terminalLines } from '../../cli/progress/terminal-lines.js';

const statusWith = (states: Partial<Record<StageName, StageState>>, more: Partial<RunStatus> = {}): RunStatus => ({
  stage: 'train',
  stages: stageNames.map((name) => ({ name, state: states[name] ?? 'pending', ...(states[name] === 'done' && { seconds: 4.25 }) })),
  notes: [],
  artifacts: {},
  ...more,
});

const train = { step: 30, steps: 60, epoch: 0.5, loss: 3.21, learningRate: 1e-4, tokensPerSecond: 312.4, etaSeconds: 65 };
const training = statusWith(
  { validate: 'done', ingest: 'reused', format: 'skipped', train: 'running' },
  { train, progress: { stage: 'train', phase: 'training', done: 30, total: 60, train } },
);

describe('terminal lines', () => {
  it('show every stage with its state, and live figures under the running one', () => {
    expect(terminalLines(training, 100)).toEqual([
      '  ✓ validate  4.3 s',
      '  ✓ ingest    reused',
      '  – format',
      '  · baseline',
      '  ▸ train',
      '      ━━━━━━━━━━━━──────────── step 30/60  loss 3.210  312 tok/s  1 m 05 s left',
      '  · merge',
      '  · evaluate',
      '  · report',
      '  · publish',
    ]);
  });

  it('show what a stage without steps is doing', () => {
    const status = statusWith({ baseline: 'running' }, { progress: { stage: 'baseline', phase: 'loading the model', done: 1, total: 4 } });
    expect(terminalLines(status, 100)).toContain('      ━━━━━━────────────────── loading the model');
  });

  it('never exceed the width, so that repainting stays in place', () => {
    expect(Math.max(...terminalLines(training, 30).map((line) => [...line].length))).toBe(30);
  });
});

describe('log lines', () => {
  it('tell a change once', () => {
    const next = statusWith({ validate: 'done', ingest: 'running' });
    expect(logLines(statusWith({ validate: 'running' }), next)).toEqual(['validate done in 4.3 s', 'ingest …']);
    expect(logLines(next, next)).toEqual([]);
  });

  it('tell training every twentieth of the way', () => {
    const at = (step: number): RunStatus => ({ ...training, train: { ...train, step, steps: 100 } });
    expect(logLines(at(50), at(53))).toEqual([]);
    expect(logLines(at(53), at(55))).toEqual(['train: step 55/100  loss 3.210  312 tok/s  1 m 05 s left']);
  });

  it('tell notes of the run', () => {
    expect(logLines(training, { ...training, notes: ['halved the micro-batch'] })).toEqual(['note: halved the micro-batch']);
  });
});

describe('progress view', () => {
  const record = (isTerminal: boolean, json = false): { out: string[]; err: string[]; view: ReturnType<typeof progressView> } => {
    const out: string[] = [];
    const err: string[] = [];
    return { out, err, view: progressView({ out: (text) => out.push(text), err: (text) => err.push(text), json, isTerminal, columns: () => 80 }) };
  };

  it('repaints a terminal over the lines it painted before', () => {
    const { err, view } = record(true);
    view.show(statusWith({}));
    view.show(training);
    expect(err[0].startsWith('  · validate')).toBe(true);
    expect(err[1].startsWith('\x1b[9A\x1b[0J  ✓ validate')).toBe(true);
  });

  it('writes no control characters to a log', () => {
    const { err, view } = record(false);
    view.show(training);
    view.note('gpu worker ended');
    expect(err.join('\n')).not.toContain('\x1b');
    expect(err.at(-1)).toBe('gpu worker ended');
  });

  it('writes a status once with --json, and nothing else to standard output', () => {
    const { out, view } = record(true, true);
    view.show(training);
    view.show(training);
    view.note('beside it');
    expect(out.map((line) => JSON.parse(line) as RunStatus)).toEqual([training]);
  });
});
