/** Stands in for the engine process: speaks its protocol as FAKE_TRAINER says, without an engine. */
import { spawn } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import type { TrainerEvent, TrainerJob } from '../../contracts/trainer-messages.js';

export type FakeTrainerMode =
  /** Three steps with a checkpoint each, then the result. */
  | 'done'
  /** Steps until it is told to stop, then a checkpoint and `interrupted`. */
  | 'endless'
  /** As endless, but deaf to SIGTERM. */
  | 'deaf'
  /** Starts a child of its own, tells its pid on stderr, then is endless. */
  | 'parent'
  | 'silent'
  /** One step and its checkpoint, then death by SIGKILL. */
  | 'crash'
  /** As `done`, with text that is no event on stdout, and a log line and a broken one on stderr. */
  | 'garbage'
  /** Exits at once, with a reason on stderr. */
  | 'broken'
  /** A failure told as such: `fail-outOfMemory`, `fail-nanLoss`, … */
  | `fail-${Extract<TrainerEvent, { event: 'failed' }>['failure']}`;

const mode = process.env.FAKE_TRAINER as FakeTrainerMode;
const emit = (event: TrainerEvent) => process.stdout.write(`${JSON.stringify(event)}\n`);
const steps = 3;
let step = 0;

const takeStep = () => {
  step += 1;
  emit({
    event: 'step', step, steps, epoch: step / steps, loss: 1 / step, learningRate: 1e-4, gradNorm: 1, tokens: 10, tokensPerSecond: 100,
    etaSeconds: steps - step,
  });
};

const checkpoint = (outputDirectory: string) => {
  const directory = `${outputDirectory}/checkpoint-${String(step).padStart(8, '0')}`;
  mkdirSync(`${directory}/state`, { recursive: true });
  writeFileSync(`${directory}/state/adapter.safetensors`, `weights of step ${step}`);
  writeFileSync(`${directory}/trainer_state.json`, JSON.stringify({ step }));
  emit({ event: 'checkpoint', step, directory });
};

const finish = (outputDirectory: string) => {
  const adapterDirectory = `${outputDirectory}/adapter`;
  const historyFile = `${outputDirectory}/trainer_state.json`;
  mkdirSync(adapterDirectory, { recursive: true });
  writeFileSync(`${adapterDirectory}/adapter_model.safetensors`, 'weights');
  writeFileSync(historyFile, '{}');
  const summary = {
    steps, epochs: 1, tokens: 30, trainLoss: 0.5, keptStep: steps, evalLoss: 0.6, trainableParameters: 8, totalParameters: 100, backend: 'fake',
  };
  emit({ event: 'done', result: { kind: 'train', adapterDirectory, historyFile, summary } });
};

function play(job: TrainerJob): void {
  if (job.kind !== 'train') throw new Error(`fake trainer: expected a train job, got ${job.kind}`);
  const { outputDirectory } = job;
  if (mode.startsWith('fail-')) {
    const failure = mode.slice('fail-'.length) as 'outOfMemory';
    emit({ event: 'failed', failure, code: 'told_so', message: 'step 3: q_proj.lora_B: expected finite gradients, got NaN' });
    process.exit(1);
  }
  if (mode === 'silent') return;
  if (mode === 'broken') {
    process.stderr.write('cannot load the library\n');
    process.exit(3);
  }
  emit({ event: 'started', backend: 'fake', message: 'no engine' });
  if (mode === 'crash') {
    takeStep();
    checkpoint(outputDirectory);
    setTimeout(() => process.kill(process.pid, 'SIGKILL'), 50);
    return;
  }
  if (mode === 'done' || mode === 'garbage') {
    if (mode === 'garbage') {
      process.stdout.write('2026: a library says hello\n{"event":"step"}\n');
      process.stderr.write('{"level":"info","time":0,"message":"trainable params: 8"}\n{"level":"info"\n');
    }
    if (job.resumeFrom) step = Number(job.resumeFrom.slice(-8));
    while (step < steps) {
      takeStep();
      checkpoint(outputDirectory);
    }
    finish(outputDirectory);
    return;
  }
  if (mode === 'parent') {
    const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'], { stdio: 'ignore' });
    process.stderr.write(`child ${child.pid}\n`);
  }
  process.on('SIGTERM', () => {
    if (mode === 'deaf') return;
    checkpoint(outputDirectory);
    emit({ event: 'interrupted', step });
    process.exit(0);
  });
  takeStep();
  setInterval(takeStep, 20);
}

const lines = createInterface({ input: process.stdin });
lines.once('line', (line) => play(JSON.parse(line) as TrainerJob));
lines.once('close', () => process.exit(0)); // the parent is gone
