import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { identify } from '../../../infra/dev/process-identity.js';
import { stopLeftOver } from '../../../infra/dev/process-group.js';
import { claimState, readLiveState, readState, writeState, type StackState } from '../../../infra/dev/stack-state.js';
import { temporaryDirectory } from '../../kit/temporary.js';

const self = identify(process.pid)!;
const stateOf = (owner = self): StackState => ({ owner, address: '127.0.0.1:7233', uiUrl: 'http://127.0.0.1:8233', processes: [] });

it('has one owner: of two that claim it, the first', async () => {
  const file = join(temporaryDirectory(), 'dev/stack.json');
  expect(await claimState(file, stateOf())).toBe(true);
  expect(await claimState(file, { ...stateOf(), address: 'other' })).toBe(false);
  expect((await readLiveState(file))?.address).toBe('127.0.0.1:7233');
});

it('is not live once its owner has ended, also when the id belongs to another process now', async () => {
  const file = join(temporaryDirectory(), 'stack.json');
  writeState(file, stateOf({ pid: process.pid, started: 'another time' }));
  expect(await readLiveState(file)).toBeUndefined();
  expect(await readState(file)).toBeDefined();
});

it('counts a damaged file as none', async () => {
  const file = join(temporaryDirectory(), 'stack.json');
  await writeFile(file, '{"owner":');
  expect(await readState(file)).toBeUndefined();
});

it('ends what was left behind, and nothing that only has the same id', async () => {
  const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'], { detached: true, stdio: 'ignore' });
  await once(child, 'spawn');
  const identity = identify(child.pid!)!;
  expect(await stopLeftOver([{ ...identity, started: 'another time' }], 100)).toBe(0);
  expect(child.exitCode).toBeNull();
  const ended = once(child, 'exit');
  expect(await stopLeftOver([identity], 1_000)).toBe(1);
  expect((await ended)[1]).toBe('SIGTERM');
});
