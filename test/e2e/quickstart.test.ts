import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, readdirSync, readlinkSync, realpathSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, it } from 'vitest';
import { temporaryDirectory } from '../kit/temporary.js';

const root = fileURLToPath(new URL('../../', import.meta.url));

interface Summary {
  workflowId: string;
  runId: string;
  backend: string;
  stages: { name: string; key: string; reused: boolean; seconds: number }[];
  baseline: { evalLoss: number };
  tuned: { evalLoss: number };
  artifacts: { adapter: string; merged: string; report: string };
}

/** Starts the quickstart in a folder of its own; models and tools come from the repository's cache. */
function quickstart(directory: string, config: string) {
  const child = spawn(process.execPath, [join(root, 'cli/temper.mjs'), 'quickstart', '--config', config], {
    cwd: directory,
    env: { ...process.env, TEMPER_CACHE: resolve(root, process.env.TEMPER_CACHE ?? '.temper/cache'), NODE_OPTIONS: '' },
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text: string) => (output += text));
  const ended = once(child, 'exit').then(([code]) => ({ code: code as number | null, output }));
  const said = async (text: string | RegExp): Promise<void> => {
    while (output.search(text) < 0) {
      if (child.exitCode !== null) throw new Error(`quickstart ended before it said ${text}:\n${output}`);
      await sleep(100);
    }
  };
  return { child, ended, said };
}

/** Command lines of the processes that run in a folder; only Linux tells. */
function processesIn(directory: string): string[] {
  if (process.platform !== 'linux') return [];
  const real = realpathSync(directory);
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      try {
        return readlinkSync(`/proc/${pid}/cwd`) === real ? [readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ')] : [];
      } catch {
        return []; // ended meanwhile, or a zombie
      }
    });
}

/** Enough that a run is still training when it is interrupted: not every step is shown, only the newest every few seconds. */
const trainSteps = 24;

/** The training steps that a quickstart showed. */
const stepsIn = (output: string): number[] => [...output.matchAll(/train: step (\d+)\//g)].map(([, step]) => Number(step));

/** A training step later than `step`, but not the last one. */
const stepAfter = (step: number): RegExp => new RegExp(`train: step (${Array.from({ length: trainSteps - step - 1 }, (_, i) => step + i + 1).join('|')})/`);

const summaryOf = async (directory: string): Promise<Summary> =>
  JSON.parse(await readFile(join(directory, '.temper/quickstart/summary.json'), 'utf8')) as Summary;

describe('quickstart', () => {
  const directory = temporaryDirectory();
  const config = join(root, 'examples/ci.json');
  let first: { output: string; summary: Summary };

  beforeAll(async () => {
    const { code, output } = await quickstart(directory, config).ended;
    expect(code, output).toBe(0);
    first = { output, summary: await summaryOf(directory) };
  });

  it('goes from a configuration to a better model', () => {
    const { workflowId, runId, backend, stages, baseline, tuned } = first.summary;
    expect(workflowId).toMatch(/^finetune-ci-[0-9a-f]{8}$/);
    expect(runId).not.toBe('');
    expect(['cuda', 'tensorflow', 'wasm', 'cpu']).toContain(backend);
    expect(stages.map(({ name, reused }) => `${name} ${reused}`)).toEqual(
      ['validate', 'ingest', 'format', 'baseline', 'train', 'merge', 'evaluate', 'report', 'publish'].map((name) => `${name} false`),
    );
    expect(tuned.evalLoss).toBeLessThan(baseline.evalLoss);
  });

  it('leaves adapter, model and report where the summary says', () => {
    const { adapter, merged, report } = first.summary.artifacts;
    for (const file of [join(adapter, 'adapter_config.json'), join(adapter, 'adapter_model.safetensors'), join(merged, 'config.json'), report]) {
      expect(existsSync(resolve(directory, file)), file).toBe(true);
    }
  });

  it('tells a log where the UI is, each stage, the training, and both models side by side', () => {
    expect(first.output).toMatch(/Temporal UI: http:\/\/127\.0\.0\.1:\d+\/namespaces\/default\/workflows\/finetune-ci-/);
    expect(first.output).toMatch(/train: step \d\/4 {2}loss \d\.\d+ {2}\d+ tok\/s {2}/);
    expect(first.output).toMatch(/eval loss +\d\.\d{3} +\d\.\d{3}\n/);
    expect(first.output).toMatch(/^baseline +│ {2}tuned$/m);
    expect(first.output).not.toContain('\x1b');
  });

  it('leaves no process behind', () => {
    expect(processesIn(directory)).toEqual([]);
  });

  it('does nothing twice: a second run reuses every stage and publishes the same version', async () => {
    const { code, output } = await quickstart(directory, config).ended;
    expect(code, output).toBe(0);
    expect(output).toContain('Reused   ingest, format, baseline, train, merge, evaluate, report\n');
    const { stages, artifacts, runId } = await summaryOf(directory);
    expect(stages.filter(({ reused }) => !reused).map(({ name }) => name)).toEqual(['validate', 'publish']);
    expect(artifacts).toEqual(first.summary.artifacts);
    expect(runId).not.toBe(first.summary.runId);
  });
});

it('goes on where it was interrupted, by Ctrl-C and by kill -9, and leaves no process behind', async () => {
  const directory = temporaryDirectory();
  const config = join(directory, 'interrupted.json');
  const ci = JSON.parse(await readFile(join(root, 'examples/ci.json'), 'utf8')) as { train: object };
  await writeFile(config, JSON.stringify({ ...ci, name: 'interrupted', train: { ...ci.train, steps: trainSteps, checkpointEvery: 1 } }));

  const interrupted = quickstart(directory, config);
  await interrupted.said(stepAfter(1));
  interrupted.child.kill('SIGINT');
  const stopped = await interrupted.ended;
  expect(stopped.code, stopped.output).toBe(130);
  expect(stopped.output).toContain('the run goes on when you start this command again');
  expect(processesIn(directory)).toEqual([]);
  const reached = Math.max(...stepsIn(stopped.output));

  const killed = quickstart(directory, config);
  await killed.said(stepAfter(reached));
  killed.child.kill('SIGKILL');
  await killed.ended;

  const { code, output } = await quickstart(directory, config).ended;
  expect(code, output).toBe(0);
  expect(output).toMatch(/Ended \d processes that an earlier run left behind/);
  // The run itself is the one that was started first: its training was not begun again.
  expect(Math.min(...stepsIn(output))).toBeGreaterThan(reached);
  expect(processesIn(directory)).toEqual([]);
});

it('refuses a configuration with problems before it starts anything', async () => {
  const directory = temporaryDirectory();
  const config = join(directory, 'wrong.json');
  await writeFile(config, JSON.stringify({ name: 'a', model: { uri: 'smollm2-135m-instruct' }, dataset: { uri: 'x', smaple: {} }, format: { response: '{a}' } }));
  const { code, output } = await quickstart(directory, config).ended;
  expect(code).toBe(2);
  expect(output).toBe("The input has a problem:\n  dataset.smaple: unknown key, did you mean 'sample'?\n");
  expect(existsSync(join(directory, '.temper'))).toBe(false);
});
