/**
 * A checkpoint directory is the whole state of a training between two steps:
 *   adapter.safetensors   A and B, by PEFT's names
 *   best.safetensors      the adapter of the best evaluation so far, where the training keeps that one
 *   moments.safetensors   AdamW's m and v, flat, in the order of the parameters
 *   trainer_state.json    step, epoch and history
 *   checkpoint.json       written last: what training it is of, and size and sha256 of the other files
 * Nothing else is needed: the learning rate, the rows of a step and every random draw are functions of the seed and the step.
 */
import { createHash } from 'node:crypto';
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { EngineError } from '../errors.js';
import { readSafetensors, writeSafetensors, type SafetensorsTensor } from '../formats/safetensors.js';
import type { ParameterValues } from '../model/adapter.js';
import { trainerStateJson, type TrainerState } from './history.js';

/** Everything that a training cannot work out again. */
export interface TrainingState {
  adapter: ReadonlyMap<string, ParameterValues>;
  /** The adapter of the best evaluation so far; absent before the first, and where the last adapter is kept. */
  best?: ReadonlyMap<string, ParameterValues>;
  /** AdamW's moments of all parameters. */
  m: Float32Array;
  v: Float32Array;
  history: TrainerState;
  /** How the step's rows were computed, where memory decided it: what is drawn for a row depends on it. */
  passes?: { batchSize: number; rows: number };
}

const FORMAT = 'temper-checkpoint-1';
const MANIFEST = 'checkpoint.json';
const BEST = 'best.safetensors';

interface Manifest {
  format: typeof FORMAT;
  step: number;
  /** Digest of what decides the course of the training; see `trainingDigest`. */
  training: string;
  passes?: TrainingState['passes'];
  files: { name: string; bytes: number; sha256: string }[];
}

/** `checkpoint-00000050`. */
export const checkpointName = (step: number): string => `checkpoint-${String(step).padStart(8, '0')}`;

/** Digest of the settings that a checkpoint belongs to. */
export const trainingDigest = (settings: object): string => sha256(Buffer.from(JSON.stringify(settings)));

/** Digest of the parameters that a training starts from. */
export function parametersDigest(parameters: ReadonlyMap<string, ParameterValues>): string {
  const hash = createHash('sha256');
  for (const [name, { shape, values }] of parameters) hash.update(`${name} ${shape.join()}\n`).update(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
  return hash.digest('hex');
}

/** Writes a checkpoint into a temporary directory beside `directory`, then renames it: it is there whole or not at all. */
export async function writeCheckpoint(directory: string, state: TrainingState, training: string): Promise<void> {
  const partial = `${directory}.partial`;
  await rm(partial, { recursive: true, force: true });
  await mkdir(partial, { recursive: true });
  const names = ['adapter.safetensors', 'moments.safetensors', 'trainer_state.json'];
  await writeParameters(join(partial, 'adapter.safetensors'), state.adapter);
  if (state.best) {
    await writeParameters(join(partial, BEST), state.best);
    names.push(BEST);
  }
  await writeSafetensors(join(partial, 'moments.safetensors'), new Map([['m', floats([state.m.length], state.m)], ['v', floats([state.v.length], state.v)]]));
  await writeFile(join(partial, 'trainer_state.json'), trainerStateJson(state.history));
  const files = await Promise.all(names.map(async (name) => {
    const bytes = await readFile(join(partial, name));
    return { name, bytes: bytes.length, sha256: sha256(bytes) };
  }));
  const manifest: Manifest = { format: FORMAT, step: state.history.global_step, training, passes: state.passes, files };
  await writeFile(join(partial, MANIFEST), `${JSON.stringify(manifest, null, 2)}\n`);
  await rm(directory, { recursive: true, force: true });
  await rename(partial, directory);
}

/** Reads a checkpoint, every byte checked. Throws `bad_checkpoint` when it is incomplete, damaged or of another training. */
export async function readCheckpoint(directory: string, training: string): Promise<TrainingState> {
  const manifest = await readManifest(directory);
  const problems: string[] = [];
  if (manifest.training !== training) problems.push('training: expected a checkpoint of this training, got one with other settings or data');
  for (const { name, bytes, sha256: expected } of manifest.files) {
    const content = await readFile(join(directory, name)).catch(() => undefined);
    if (!content) problems.push(`${name}: expected ${bytes} bytes, got no file`);
    else if (content.length !== bytes) problems.push(`${name}: expected ${bytes} bytes, got ${content.length}`);
    else if (sha256(content) !== expected) problems.push(`${name}: expected sha256 ${expected}, got ${sha256(content)}`);
  }
  if (problems.length > 0) throw damaged(directory, problems);

  const adapter = await readParameters(join(directory, 'adapter.safetensors'));
  const best = manifest.files.some(({ name }) => name === BEST) ? await readParameters(join(directory, BEST)) : undefined;
  const moments = await readSafetensors(join(directory, 'moments.safetensors'));
  const history = JSON.parse(await readFile(join(directory, 'trainer_state.json'), 'utf8')) as TrainerState;
  return { adapter, best, m: moments.get('m')!.data as Float32Array, v: moments.get('v')!.data as Float32Array, history, passes: manifest.passes };
}

async function readManifest(directory: string): Promise<Manifest> {
  const text = await readFile(join(directory, MANIFEST), 'utf8').catch(() => {
    throw damaged(directory, [`${MANIFEST}: expected to exist, got none: the checkpoint is incomplete`]);
  });
  try {
    const manifest = JSON.parse(text) as Manifest;
    if (manifest.format === FORMAT && Array.isArray(manifest.files)) return manifest;
  } catch {
    // falls through: not JSON
  }
  throw damaged(directory, [`${MANIFEST}: expected format ${FORMAT}, got something else`]);
}

const writeParameters = (path: string, parameters: ReadonlyMap<string, ParameterValues>): Promise<void> =>
  writeSafetensors(path, new Map([...parameters].map(([name, { shape, values }]) => [name, floats([...shape], values)])));

async function readParameters(path: string): Promise<Map<string, ParameterValues>> {
  return new Map([...(await readSafetensors(path))].map(([name, { shape, data }]) => [name, { shape, values: data as Float32Array }]));
}

const damaged = (directory: string, problems: string[]): EngineError =>
  new EngineError('invalidInput', 'bad_checkpoint', problems.map((problem) => `${directory}: ${problem}`).join('\n'));

const floats = (shape: number[], data: Float32Array): SafetensorsTensor => ({ dtype: 'F32', shape, data });
const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
