/**
 * Starts a command of this repository from any state of the clone: installs the dependencies when node_modules does not
 * match the lock file, sets up libtensorflow when it is missing, then runs the command in this process.
 *
 *   node infra/bootstrap.mjs [--without-libtensorflow] [--gpu] [--llama-cpp] [COMMAND [ARGUMENT…]]
 *
 * COMMAND is `temper`, or the name of a tool in node_modules (vitest, eslint, tsc). Without one, only the setup is done.
 */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { install, isInstalled } from './install.mjs';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const options = [];
const rest = process.argv.slice(2);
while (rest[0]?.startsWith('--')) options.push(rest.shift());
const [command, ...args] = rest;

try {
  await setUp();
} catch (error) {
  console.error(`setup: ${error instanceof Error ? error.message : error}`);
  process.exit(1);
}
if (command !== undefined) {
  const entry = command === 'temper' ? join(root, 'cli/temper.mjs') : toolEntry(command);
  process.argv = [process.argv[0], entry, ...args];
  await import(pathToFileURL(entry).href);
}

async function setUp() {
  if (!isInstalled(root)) {
    await timed('Installing dependencies (npm ci)', () => install(root, join(root, '.temper/logs/npm.log')));
  }
  if (options.includes('--llama-cpp')) {
    const { setUpLlamaCpp } = await import('./tools/llama-cpp.mjs');
    await timed('Installing llama.cpp', () => setUpLlamaCpp(process.env.TEMPER_CACHE || join(root, '.temper/cache')));
  }
  if (options.includes('--without-libtensorflow')) return;
  const { setUpLibtensorflow } = await import('./setup-libtensorflow.mjs');
  await setUpLibtensorflow({ gpu: options.includes('--gpu') });
}

/**
 * Prints the step when it starts and the time it took.
 * @param {string} step
 * @param {() => Promise<unknown>} run
 */
async function timed(step, run) {
  const started = performance.now();
  process.stderr.write(`${step} …`);
  await run().catch((error) => {
    process.stderr.write('\n');
    throw error;
  });
  process.stderr.write(` ${((performance.now() - started) / 1000).toFixed(0)} s\n`);
}

/**
 * The script behind a tool's name in node_modules/.bin.
 * @param {string} name
 */
function toolEntry(name) {
  const packageName = name === 'tsc' ? 'typescript' : name;
  const directory = join(root, 'node_modules', packageName);
  if (!existsSync(directory)) throw new Error(`${name}: expected a tool in node_modules, found none`);
  const { bin } = JSON.parse(readFileSync(join(directory, 'package.json'), 'utf8'));
  return join(directory, typeof bin === 'string' ? bin : bin[name]);
}
