/**
 * llama.cpp, as the npm package node-llama-cpp with its prebuilt CPU library (MIT): it checks the GGUF files that Temper writes.
 * It is no dependency, because npm would fetch its builds for every graphics card with it; alone it takes 85 MB. Plain Node, as it
 * is part of the setup.
 */
import { spawn } from 'node:child_process';
import { access, mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';

const version = '3.22.0';

/** Node's platform and architecture → the package with the CPU library. */
const builds = {
  'linux-x64': 'linux-x64', 'linux-arm64': 'linux-arm64', 'darwin-arm64': 'mac-arm64-metal', 'darwin-x64': 'mac-x64', 'win32-x64': 'win-x64', 'win32-arm64': 'win-arm64',
};

/** What to tell a user who has none. */
export const installLlamaCpp = 'npm run setup -- --llama-cpp';

/** @param {string} cacheDirectory */
const directoryIn = (cacheDirectory) => resolve(cacheDirectory, 'tools', `node-llama-cpp-${version}`);

/**
 * The directory with node_modules/node-llama-cpp, if it was set up.
 * @param {string} cacheDirectory the project's cache, e.g. `.temper/cache`
 * @returns {Promise<string | undefined>}
 */
export async function findLlamaCpp(cacheDirectory) {
  const directory = directoryIn(cacheDirectory);
  return access(join(directory, 'node_modules/node-llama-cpp/package.json')).then(() => directory, () => undefined);
}

/**
 * As `findLlamaCpp`; fetches it when it is not there.
 * @param {string} cacheDirectory
 * @returns {Promise<string>}
 */
export async function setUpLlamaCpp(cacheDirectory) {
  const found = await findLlamaCpp(cacheDirectory);
  if (found) return found;
  const build = builds[`${process.platform}-${process.arch}`];
  if (!build) throw new Error(`node-llama-cpp: expected one of ${Object.keys(builds).join(', ')}, got ${process.platform}-${process.arch}`);
  const directory = directoryIn(cacheDirectory);
  await mkdir(join(directory, '..'), { recursive: true });
  const building = await mkdtemp(`${directory}-`);
  try {
    await writeFile(join(building, 'package.json'), '{ "private": true }\n');
    await npmInstall(building, [`node-llama-cpp@${version}`, `@node-llama-cpp/${build}@${version}`]);
    await rename(building, directory).catch(async (error) => {
      if (!(await findLlamaCpp(cacheDirectory))) throw error; // else another process was faster
    });
  } finally {
    await rm(building, { recursive: true, force: true });
  }
  return directory;
}

/**
 * @param {string} directory
 * @param {string[]} packages
 */
async function npmInstall(directory, packages) {
  const args = ['install', '--ignore-scripts', '--omit=optional', '--no-audit', '--no-fund', '--loglevel=error', ...packages];
  let said = '';
  const code = await new Promise((resolve, reject) => {
    // npm is a .cmd file on Windows, which only a shell starts.
    const npm = spawn('npm', args, { cwd: directory, stdio: ['ignore', 'pipe', 'pipe'], shell: process.platform === 'win32' });
    for (const stream of [npm.stdout, npm.stderr]) stream.on('data', (chunk) => (said += chunk));
    npm.on('error', reject);
    npm.on('close', resolve);
  });
  if (code !== 0) throw new Error(`npm install ${packages.join(' ')}: expected exit code 0, got ${code}\n${said.trim()}`);
}
