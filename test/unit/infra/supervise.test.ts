import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it, onTestFinished } from 'vitest';
import { isRunning, identify, type ProcessIdentity } from '../../../infra/dev/process-identity.js';
import { supervise } from '../../../infra/dev/supervise.js';
import { temporaryDirectory } from '../../kit/temporary.js';

/** A Node program under supervision, and what is told about it. */
async function watched(program: string) {
  const logFile = join(temporaryDirectory(), 'child.log');
  const lines: string[] = [];
  const starts: ProcessIdentity[] = [];
  const child = await supervise({
    name: 'child', spec: { command: process.execPath, args: ['-e', program], logFile },
    onStart: (identity) => starts.push(identity), onLine: (line) => lines.push(line), pauseMs: 1, attempts: 3,
  });
  onTestFinished(() => child.stop(0));
  return { child, lines, starts, logFile };
}

async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await sleep(20);
}

it('starts a process that ends again, and gives up when it keeps failing', async () => {
  const { child, lines, starts } = await watched('process.exit(3)');
  expect((await child.givenUp).message).toMatch(/^child: ended 3 times in a row \(exit code 3\); see .*child\.log$/);
  expect(starts.length).toBe(3);
  expect(lines[0]).toMatch(/^child ended \(exit code 3\); starting it again in 0\.001 s, see /);
});

it('starts a killed process again', async () => {
  const { starts, lines } = await watched('setInterval(() => {}, 1000)');
  process.kill(starts[0].pid, 'SIGKILL');
  await until(() => starts.length === 2);
  expect(lines[0]).toContain('child ended (signal SIGKILL)');
  expect(isRunning(starts[1])).toBe(true);
});

it('ends what the process has started, too, even when it does not listen', async () => {
  const program = `
    process.on('SIGTERM', () => {});
    const { spawn } = require('node:child_process');
    console.log(spawn(process.execPath, ['-e', "process.on('SIGTERM', () => {}); console.log('deaf'); setInterval(() => {}, 1000)"], { stdio: 'inherit' }).pid);
    setInterval(() => {}, 1000)`;
  const { child, starts, logFile } = await watched(program);
  const log = (): Promise<string> => readFile(logFile, 'utf8');
  await until(async () => (await log()).includes('deaf'));
  const grandchild = identify(Number(/\d+/.exec(await log())![0]))!;
  await child.stop(100);
  expect([starts[0], grandchild].map(isRunning)).toEqual([false, false]);
});
