import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { freemem, totalmem } from 'node:os';
import { promisify } from 'node:util';
import { isServing } from '../../infra/dev/dev-server.js';
import { runningStack } from '../../infra/dev/stack.js';
import { findLlamaCpp, installLlamaCpp } from '../../infra/tools/llama-cpp.mjs';
import { findTemporalCli } from '../../infra/tools/temporal-cli.js';
import { findPip } from '../../infra/tools/wheel.js';
import { openStore } from '../../store/open-store.js';
import type { TemperConfig } from '../../temporal.config.js';
import { dataDirectory } from '../data-directory.js';
import { finding, ok, problem, warning, type Finding } from './check.js';

const run = promisify(execFile);
const leastNode = [20, 19];
const gibibyte = 2 ** 30;

export function checkNode(version = process.versions.node): Finding {
  const [major, minor] = version.split('.').map(Number);
  const enough = major > leastNode[0] || (major === leastNode[0] && minor >= leastNode[1]);
  return enough ? ok('Node', version) : problem('Node', `expected ${leastNode.join('.')} or newer, got ${version}`, 'Install a current Node: https://nodejs.org');
}

/** Free for programs, in bytes: what the system can give without swapping. */
export function availableMemory(): number {
  try {
    const line = /^MemAvailable:\s+(\d+) kB/m.exec(readFileSync('/proc/meminfo', 'utf8'));
    if (line) return Number(line[1]) * 1024;
  } catch {
    // Not Linux.
  }
  return freemem();
}

export function checkMemory(free = availableMemory(), total = totalmem()): Finding {
  const detail = `${(free / gibibyte).toFixed(1)} GiB free of ${(total / gibibyte).toFixed(1)} GiB`;
  if (free >= 4 * gibibyte) return ok('Memory', detail);
  return warning('Memory', detail, 'The quickstart needs about 4 GiB; close other programs.');
}

export const checkTemporalCli = ({ cacheDirectory }: TemperConfig): Promise<Finding> =>
  finding('Temporal CLI', 'Install it from https://docs.temporal.io/cli#install', async () => {
    const cli = await findTemporalCli(cacheDirectory);
    if (!cli) return ok('Temporal CLI', 'not here yet; fetched at the first start of the development server');
    const { stdout } = await run(cli.path, ['--version']);
    return ok('Temporal CLI', `${stdout.trim()} (${cli.path})`);
  });

/** llama.cpp is wanted by runs alone that export GGUF files. */
export async function checkLlamaCpp({ cacheDirectory }: TemperConfig): Promise<Finding> {
  const directory = await findLlamaCpp(cacheDirectory);
  return ok('llama.cpp', directory ?? `not set up, so GGUF files are not checked; ${installLlamaCpp} does that`);
}

export async function checkTemporalServer({ temporal }: TemperConfig): Promise<Finding> {
  const address = (await runningStack(dataDirectory))?.address ?? temporal.address;
  if (await isServing(address)) return ok('Temporal server', `answers at ${address}`);
  return warning('Temporal server', `none answers at ${address}`, 'Start one with: npm run dev (the quickstart starts its own).');
}

export const checkStore = ({ store }: TemperConfig): Promise<Finding> =>
  finding('Artifact store', 'Set TEMPER_STORE to a directory or bucket that you may write to.', async () => {
    await openStore(store).check();
    return ok('Artifact store', `${store} can be written`);
  });

export async function checkPython(): Promise<Finding> {
  const pip = await findPip();
  if (!pip) return warning('Python and pip', 'not found', 'Install Python 3 with pip: the Temporal CLI, libtensorflow and the built-in model come from there.');
  const { stdout } = await run(pip.command, [...pip.args, '--version']);
  return ok('Python and pip', stdout.trim().replace(/ from .* \(/, ' ('));
}
