import { readFileSync, readdirSync } from 'node:fs';
import proto from '@temporalio/proto';
import { DeterminismViolationError } from '@temporalio/workflow';
import { DefaultLogger, Runtime, Worker } from '@temporalio/worker';
import { beforeAll, describe, expect, it } from 'vitest';
import { workflowBundle } from '../../workers/workflow-bundle.js';
import { cacheDirectory } from '../kit/temporal.js';

const { History } = proto.temporal.api.history.v1;

const histories = new URL('../histories/', import.meta.url);
const names = readdirSync(histories).filter((name) => name.endsWith('.binpb'));
const read = (name: string) => History.decode(readFileSync(new URL(name, histories)));

/** A run that is under way when a new version is deployed is replayed by it; test/histories/record.ts says how these were made. */
describe('replay', () => {
  let codePath: string;
  beforeAll(async () => {
    Runtime.install({ logger: new DefaultLogger('ERROR') });
    codePath = await workflowBundle(cacheDirectory);
  });
  const replay = (history: unknown) => Worker.runReplayHistory({ workflowBundle: { codePath } }, history);

  it('has histories', () => expect(names.length).toBeGreaterThan(0));

  it.each(names)('%s', (name) => replay(read(name)));

  it('fails on a history that this workflow would not have made', async () => {
    const history = read(names[0]);
    const scheduled = history.events.find(({ activityTaskScheduledEventAttributes: it }) => it?.activityType?.name === 'format')!;
    scheduled.activityTaskScheduledEventAttributes!.activityType!.name = 'merge';
    await expect(replay(history)).rejects.toThrow(DeterminismViolationError);
  });
});
