import { homedir } from 'node:os';
import { delimiter, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { loadClientConnectConfig } from '@temporalio/envconfig';
import { z } from 'zod';
import { InvalidInputError } from './contracts/errors.js';
import { defaultTaskQueue, gpuTaskQueue } from './contracts/task-queues.js';

const wholeNumber = (fallback: number, least = 1) =>
  z
    .string()
    .regex(/^\d+$/, `expected a whole number`)
    .transform(Number)
    .refine((value) => value >= least, `expected ${least} or more`)
    .default(fallback);

const path = z.string().min(1, 'expected a path').transform(expandHome);

const oneOf = <const Values extends [string, ...string[]]>(values: Values) =>
  z.enum(values, `expected ${values.slice(0, -1).join(', ')} or ${values.at(-1)}`);

/** Every setting that comes from the environment; an empty variable counts as unset. */
const settings = {
  /** Task queue of workflows and CPU stages; the GPU stages use the same with `-gpu` after it. @default temper */
  TEMPER_TASK_QUEUE: z.string().regex(/^[\w.-]{1,200}$/, 'expected letters, digits, ".", "_" and "-"').default(defaultTaskQueue),
  /** Artifact store: `file:` directory or `s3://bucket/prefix`. A relative directory starts at the current one. @default file:.temper/store */
  TEMPER_STORE: z.string().regex(/^(file:.+|s3:\/\/[^/]+.*)$/, 'expected file:DIRECTORY or s3://BUCKET/PREFIX').default('file:.temper/store'),
  /** Models, datasets, the workflow bundle and tools are kept here between runs; it may be deleted at any time. @default .temper/cache */
  TEMPER_CACHE: path.default('.temper/cache'),
  /** Directories that `file:` datasets and models may be in, separated as in PATH. @default the current directory */
  TEMPER_DATA_ROOTS: z
    .string()
    .transform((list) => list.split(delimiter).filter((root) => root !== '').map(expandHome))
    .default(['.']),
  /** Engine backend. @default the best one available */
  TEMPER_BACKEND: oneOf(['cuda', 'tensorflow', 'wasm', 'cpu']).optional(),
  /** CPU stages that one orchestrator worker runs at a time. @default 4 */
  TEMPER_MAX_ACTIVITIES: wholeNumber(4),
  /** Workflows that one orchestrator worker keeps in memory. @default 200 */
  TEMPER_MAX_CACHED_WORKFLOWS: wholeNumber(200),
  /** An engine process that says nothing for this long is killed and its stage retried. @default 600 */
  TEMPER_WATCHDOG_SECONDS: wholeNumber(600),
  /** Time an engine process has to write a checkpoint when it is told to stop. @default 60 */
  TEMPER_GRACE_SECONDS: wholeNumber(60),
  /** Complete checkpoints of a running training that are kept. @default 2 */
  TEMPER_KEEP_CHECKPOINTS: wholeNumber(2),
  /** @default info */
  TEMPER_LOG_LEVEL: oneOf(['trace', 'debug', 'info', 'warn', 'error', 'silent']).default('info'),
};

/** Where Temper connects and what it uses. Made by `loadConfig`. */
export interface TemperConfig {
  /** From temporal.toml profiles and TEMPORAL_* variables; default localhost:7233, namespace `default`. */
  temporal: { connection: ReturnType<typeof loadClientConnectConfig>['connectionOptions']; address: string; namespace: string };
  taskQueues: { orchestration: string; gpu: string };
  workers: { maxActivities: number; maxCachedWorkflows: number };
  /** `file:///absolute/directory` or `s3://bucket/prefix`. */
  store: string;
  /** Absolute path. */
  cacheDirectory: string;
  /** Absolute paths. */
  dataRoots: string[];
  /** Undefined: the best one available. */
  backend?: 'cuda' | 'tensorflow' | 'wasm' | 'cpu';
  trainer: { watchdogSeconds: number; graceSeconds: number; keepCheckpoints: number };
  logLevel: 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'silent';
}

/**
 * Reads the configuration from the environment.
 * @throws InvalidInputError naming every variable that doesn't fit: `TEMPER_X: expected …, got …`
 */
export function loadConfig(env: NodeJS.ProcessEnv = process.env): TemperConfig {
  const given = Object.fromEntries(Object.keys(settings).map((name) => [name, env[name] === '' ? undefined : env[name]]));
  const parsed = z.object(settings).safeParse(given);
  const temporal = readTemporal(env);

  const problems = parsed.error?.issues.map(({ path: [name], message }) => ({
    path: String(name),
    message: `${message}, got ${JSON.stringify(given[String(name)])}`,
  }));
  if ('problem' in temporal || !parsed.success) {
    throw new InvalidInputError([...(problems ?? []), ...('problem' in temporal ? [temporal.problem] : [])]);
  }

  const values = parsed.data;
  return {
    temporal,
    taskQueues: { orchestration: values.TEMPER_TASK_QUEUE, gpu: gpuTaskQueue(values.TEMPER_TASK_QUEUE) },
    workers: { maxActivities: values.TEMPER_MAX_ACTIVITIES, maxCachedWorkflows: values.TEMPER_MAX_CACHED_WORKFLOWS },
    store: absoluteStore(values.TEMPER_STORE),
    cacheDirectory: resolve(values.TEMPER_CACHE),
    dataRoots: values.TEMPER_DATA_ROOTS.map((root) => resolve(root)),
    backend: values.TEMPER_BACKEND,
    trainer: {
      watchdogSeconds: values.TEMPER_WATCHDOG_SECONDS,
      graceSeconds: values.TEMPER_GRACE_SECONDS,
      keepCheckpoints: values.TEMPER_KEEP_CHECKPOINTS,
    },
    logLevel: values.TEMPER_LOG_LEVEL,
  };
}

function readTemporal(env: NodeJS.ProcessEnv): TemperConfig['temporal'] | { problem: { path: string; message: string } } {
  const variables = Object.fromEntries(Object.entries(env).filter((entry): entry is [string, string] => entry[1] !== undefined));
  try {
    const { connectionOptions, namespace } = loadClientConnectConfig({ overrideEnvVars: variables });
    const address = connectionOptions.address ?? 'localhost:7233';
    return { connection: { ...connectionOptions, address }, address, namespace: namespace ?? 'default' };
  } catch (err) {
    const source = env.TEMPORAL_CONFIG_FILE ?? 'temporal.toml and TEMPORAL_* variables';
    return { problem: { path: source, message: `expected a usable connection profile, got ${String(err)}` } };
  }
}

function absoluteStore(uri: string): string {
  if (!uri.startsWith('file:')) return uri;
  if (uri.startsWith('file:///')) return uri;
  return pathToFileURL(resolve(expandHome(uri.slice('file:'.length)))).href;
}

function expandHome(value: string): string {
  return value === '~' || value.startsWith('~/') ? homedir() + value.slice(1) : value;
}
