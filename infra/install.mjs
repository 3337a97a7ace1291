/** Puts the dependencies of package-lock.json into node_modules. Plain Node: it runs before anything is installed. */
import { spawn } from 'node:child_process';
import { mkdirSync, openSync, closeSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/**
 * Whether node_modules holds exactly what the lock file asks for, by npm's own record of what it installed.
 * Optional packages may be missing: most of them belong to other platforms.
 * @param {string} root
 */
export function isInstalled(root) {
  const wanted = readPackages(join(root, 'package-lock.json'));
  if (!wanted) throw new Error('package-lock.json: expected the lock file of this repository, found none');
  const present = readPackages(join(root, 'node_modules/.package-lock.json'));
  if (!present) return false;
  return Object.entries(wanted).every(
    ([path, { version, optional }]) => path === '' || present[path]?.version === version || (optional && !present[path]),
  );
}

/**
 * Runs `npm ci`; its output goes to `logFile`.
 * @param {string} root
 * @param {string} logFile
 * @returns {Promise<void>}
 */
export async function install(root, logFile) {
  mkdirSync(join(logFile, '..'), { recursive: true });
  const log = openSync(logFile, 'w');
  const code = await new Promise((resolve, reject) => {
    // npm is a .cmd file on Windows, which only a shell starts.
    const npm = spawn('npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error'], {
      cwd: root,
      stdio: ['ignore', log, log],
      shell: process.platform === 'win32',
    });
    npm.on('error', reject);
    npm.on('close', resolve);
  }).finally(() => closeSync(log));
  if (code !== 0) throw new Error(`npm ci: expected exit code 0, got ${code}\n${lastLines(logFile, 20)}`);
}

/**
 * @param {string} file
 * @param {number} count
 */
function lastLines(file, count) {
  return readFileSync(file, 'utf8').trimEnd().split('\n').slice(-count).join('\n');
}

/**
 * @param {string} file
 * @returns {Record<string, { version?: string, optional?: boolean }> | undefined}
 */
function readPackages(file) {
  try {
    return JSON.parse(readFileSync(file, 'utf8')).packages;
  } catch {
    return undefined;
  }
}
