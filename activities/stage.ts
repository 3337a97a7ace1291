import { createHash } from 'node:crypto';
import { mkdtemp, mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Logger } from 'pino';
import type { z } from 'zod';
import { artifactRefSchema, namedArtifactSchema } from '../contracts/artifact-schema.js';
import type { ArtifactRef } from '../contracts/artifact.js';
import { InvalidInputError } from '../contracts/errors.js';
import type { StageName, StageOutcome, StageRequest, TrainProgress } from '../contracts/pipeline.js';
import type { ModelRef } from '../contracts/stages.js';
import type { ArtifactStore } from '../store/artifact-store.js';
import { findStageResult, saveStageResult } from './stage-result.js';
import type { RunTrainer } from './run-trainer.js';
import type { SourceProgress } from './sources/source-settings.js';

/** What a stage may touch. Given by the worker; nothing in it knows of Temporal. */
export interface StageContext {
  store: ArtifactStore;
  /** Local directory with a model's or adapter's files under their names, fetched when the cache lacks them. `path` is what names it in the configuration. */
  models: { open(model: Pick<ModelRef, 'files'>, progress?: SourceProgress, path?: string): Promise<string> };
  /** Local path of a dataset file, verified against its digest. */
  fetchDataset(ref: ArtifactRef, progress?: SourceProgress): Promise<string>;
  /** Where tools are kept between runs. */
  cacheDirectory: string;
  /** Runs one engine job in a child process. */
  runTrainer: RunTrainer;
  log: Logger;
  /** Reports work other than training steps; every call is also a sign of life. */
  progress(phase: string, done: number, total: number): void;
  /** Reports the live figures of training; every call is also a sign of life. */
  training(figures: TrainProgress): void;
  /** Aborted when the run is cancelled, the worker stops or the attempt timed out. */
  signal: AbortSignal;
  /** An empty directory of this attempt's own, removed when the stage ends. */
  workDirectory: string;
  /** The stage key. */
  key: string;
  /** See StageRequest. */
  scope?: string;
  /** The run on whose behalf the stage runs. */
  runId: string;
  /** Complete checkpoints of a running training that are kept. */
  keepCheckpoints: number;
}

/** What the worker gives to every stage; `workDirectory`, `key` and `scope` are added for each run of a stage. */
export type StageServices = Omit<StageContext, 'workDirectory' | 'key' | 'scope'> & {
  /** Work directories are made under this one. */
  workRoot: string;
};

export interface Stage<Input, Output> {
  name: StageName;
  /** Raised when the same input shall give another output: results of other versions are not reused. */
  version: number;
  input: z.ZodType<Input>;
  output: z.ZodType<Output>;
  /** `false`: run every time, because the outside world is part of the input (validate) or of the effect (publish). @default true */
  reusable?: boolean;
  run(input: Input, context: StageContext): Promise<Output>;
  /** Removes what was only needed until the result was stored. Called each time the result is found or stored. */
  finish?(input: Input, context: Pick<StageContext, 'store' | 'scope'>): Promise<void>;
}

/** Infers a stage's types from its schemas. */
export const defineStage = <Input, Output>(stage: Stage<Input, Output>): Stage<Input, Output> => stage;

/**
 * Runs a stage, or returns the result that an earlier run left for the same key.
 *
 * The result object is created last and conditionally: of two racing attempts one wins, and both return the winner's
 * output. A result whose artifacts have been removed from the store is not reused, and is replaced.
 * @throws InvalidInputError naming every field of the input that doesn't fit the stage's schema
 */
export async function runStage<Input, Output>(
  stage: Stage<Input, Output>,
  request: StageRequest<unknown>,
  services: StageServices,
): Promise<StageOutcome<Output>> {
  const input = parseInput(stage, request.input);
  const key = stageKey(stage, input, request.scope);
  const { workRoot, ...rest } = services;
  const { store, models, signal } = services;
  // What a stage has fetched is its progress, and ends with it.
  const fetching: SourceProgress = (...report) => {
    signal.throwIfAborted();
    services.progress(...report);
  };
  const sources: Pick<StageContext, 'models' | 'fetchDataset'> = {
    models: { open: (model, _progress, path) => models.open(model, fetching, path) },
    fetchDataset: (ref) => services.fetchDataset(ref, fetching),
  };

  const earlier = stage.reusable === false ? undefined : await findStageResult(store, stage, key);
  if (earlier?.complete) {
    await stage.finish?.(input, { store, scope: request.scope });
    services.log.info({ stage: stage.name, key }, `${stage.name}: reused the result of an earlier run`);
    return { key, reused: true, seconds: earlier.seconds, output: earlier.output };
  }

  await mkdir(workRoot, { recursive: true });
  const workDirectory = await mkdtemp(join(workRoot, `${stage.name}-`));
  try {
    const start = performance.now();
    const output = stage.output.parse(await stage.run(input, { ...rest, ...sources, workDirectory, key, scope: request.scope }));
    const seconds = Math.round(performance.now() - start) / 1000;
    if (stage.reusable === false) return { key, reused: false, seconds, output };
    const saved = await saveStageResult(store, stage, { key, seconds, output }, earlier?.etag ?? null);
    await stage.finish?.(input, { store, scope: request.scope });
    return { key, reused: false, seconds: saved.seconds, output: saved.output };
  } finally {
    await rm(workDirectory, { recursive: true, force: true });
  }
}

/**
 * The identity of a stage's result: sha256 of the canonical JSON of name, version and input, in which an artifact counts by
 * its digest (and its name in a directory), wherever it is stored.
 * @param scope makes the key one run's own (`reuse: false`)
 */
export function stageKey(stage: { name: string; version: number }, input: unknown, scope?: string): string {
  const parts = [stage.name, stage.version, reduceArtifacts(input), ...(scope === undefined ? [] : [scope])];
  return createHash('sha256').update(canonicalJson(parts)).digest('hex');
}

function parseInput<Input>(stage: Stage<Input, unknown>, input: unknown): Input {
  const parsed = stage.input.safeParse(input);
  if (parsed.success) return parsed.data;
  throw new InvalidInputError(
    parsed.error.issues.map(({ path, message }) => ({ path: [stage.name, ...path].join('.'), message })),
  );
}

function reduceArtifacts(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(reduceArtifacts);
  if (typeof value !== 'object' || value === null) return value;
  const named = namedArtifactSchema.safeParse(value);
  if (named.success) return { name: named.data.name, sha256: named.data.sha256 };
  const artifact = artifactRefSchema.safeParse(value);
  if (artifact.success) return artifact.data.sha256;
  return Object.fromEntries(Object.entries(value).map(([name, field]) => [name, reduceArtifacts(field)]));
}

/** JSON with sorted keys and without undefined fields: equal values give equal text. */
export function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_, field: unknown) =>
    typeof field === 'object' && field !== null && !Array.isArray(field)
      ? Object.fromEntries(Object.entries(field).sort(([a], [b]) => (a < b ? -1 : 1)))
      : field,
  );
}
