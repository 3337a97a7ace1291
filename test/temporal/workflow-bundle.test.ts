import { mkdtemp, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { buildWorkflowBundle, workflowBundle } from '../../workers/workflow-bundle.js';
import { temporaryDirectory } from '../kit/temporary.js';

const directory = temporaryDirectory();

describe('the workflow bundle', () => {
  let modules: string[];
  beforeAll(async () => {
    const code = await buildWorkflowBundle();
    const [, map] = /sourceMappingURL=data:application\/json;charset=utf-8;base64,(\S+)/.exec(code)!;
    modules = (JSON.parse(Buffer.from(map, 'base64').toString()) as { sources: string[] }).sources;
  });

  it('holds the workflow, the contracts and the SDK', () => {
    expect(modules.some((path) => path.includes('node_modules/@temporalio/workflow'))).toBe(true);
    expect(modules.some((path) => path.endsWith('workflows/fine-tune.ts'))).toBe(true);
    expect(modules.some((path) => path.endsWith('contracts/task-queues.ts'))).toBe(true);
  });

  it.each(['zod', '@tensorflow', 'koffi', 'pino', '@aws-sdk'])('holds no %s', (name) =>
    expect(modules.filter((path) => path.includes(`node_modules/${name}`))).toEqual([]));

  it('holds none of our code but workflows and contracts', () =>
    expect(modules.filter((path) => /\/(activities|engine|store|workers|cli|infra)\/[\w/-]+\.ts$/.test(path) && !path.includes('node_modules'))).toEqual([]));

  it('is made once for the same sources', async () => {
    const cache = await mkdtemp(join(directory, 'cache-'));
    const path = await workflowBundle(cache);
    const { mtimeMs } = await stat(path);
    expect(await workflowBundle(cache)).toBe(path);
    expect((await stat(path)).mtimeMs).toBe(mtimeMs);
    expect(await readFile(path, 'utf8')).toContain('fineTune');
  });
});
