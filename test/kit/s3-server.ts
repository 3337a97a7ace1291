/** Vitest global setup of the storage tests: one real S3 server for all of them, `inject('s3')`. */
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { TestProject } from 'vitest/node';
import { freePort } from '../../infra/dev/free-port.js';
import { ToolError } from '../../infra/tools/tool-error.js';
import { versityGw } from '../../infra/tools/versitygw.js';

export interface S3Server {
  endpoint: string;
  accessKeyId: string;
  secretAccessKey: string;
}

declare module 'vitest' {
  interface ProvidedContext {
    s3: S3Server | { missing: string };
  }
}

export async function setup({ provide }: TestProject): Promise<(() => Promise<void>) | undefined> {
  try {
    const { stop, ...server } = await startS3Server();
    provide('s3', server);
    return stop;
  } catch (error) {
    if (!(error instanceof ToolError)) throw error;
    provide('s3', { missing: error.message.split('\n')[0]! });
    return undefined;
  }
}

/** Starts versitygw on a free port over an empty temporary directory. @throws ToolError when there is none */
export async function startS3Server(cacheDirectory = '.temper/cache'): Promise<S3Server & { stop(): Promise<void> }> {
  const program = await versityGw(cacheDirectory);
  await mkdir(cacheDirectory, { recursive: true });
  const directory = await mkdtemp(join(cacheDirectory, 's3-')); // beside the cache, since not every /tmp has extended attributes
  const address = `127.0.0.1:${await freePort(0)}`;
  const [accessKeyId, secretAccessKey] = ['temper-test', randomBytes(16).toString('hex')];
  const child = spawn(program, ['--port', address, '--health', '/health', '--quiet', 'posix', directory], {
    env: { ...process.env, ROOT_ACCESS_KEY: accessKeyId, ROOT_SECRET_KEY: secretAccessKey },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let output = '';
  child.stderr.on('data', (chunk: Buffer) => (output += chunk.toString()));
  const ended = new Promise((resolve) => child.once('exit', resolve));
  const stop = async (): Promise<void> => {
    child.kill('SIGKILL');
    await ended;
    await rm(directory, { recursive: true, force: true });
  };
  const endpoint = `http://${address}`;
  for (let attempt = 0; attempt < 200; attempt++) {
    if (await fetch(`${endpoint}/health`).then(({ ok }) => ok, () => false)) return { endpoint, accessKeyId, secretAccessKey, stop };
    if (child.exitCode !== null) break;
    await sleep(50);
  }
  await stop();
  throw new Error(`versitygw: expected it to answer at ${endpoint}/health, got nothing; it said: ${output}`);
}
