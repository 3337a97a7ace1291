import { access, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { defineStage, runStage, stageKey, type StageServices } from '../../activities/stage.js';
import { artifactRefSchema } from '../../contracts/artifact-schema.js';
import type { ArtifactRef } from '../../contracts/artifact.js';
import { InvalidInputError } from '../../contracts/errors.js';
import { objectKey } from '../../store/keys.js';
import { openStore } from '../../store/open-store.js';
import { temporaryDirectory } from '../kit/temporary.js';
import { silentLog } from '../kit/trainer-job.js';

const directory = temporaryDirectory();
let count = 0;

function services(): StageServices {
  count += 1;
  return {
    store: openStore(pathToFileURL(join(directory, `store-${count}`)).href),
    models: { open: () => Promise.reject(new Error('no models here')) },
    fetchDataset: () => Promise.reject(new Error('no datasets here')),
    runTrainer: () => Promise.reject(new Error('no trainer here')),
    log: silentLog,
    progress: () => undefined,
    training: () => undefined,
    signal: new AbortController().signal,
    cacheDirectory: join(directory, 'cache'),
    keepCheckpoints: 1,
    runId: 'run',
    workRoot: join(directory, `work-${count}`),
  };
}

/** Writes `text` as an artifact; tells how often it ran. */
function writer(change: { version?: number; reusable?: boolean } = {}) {
  const ran: string[] = [];
  const finished: string[] = [];
  const stage = defineStage({
    name: 'ingest', version: 1, ...change,
    input: z.strictObject({ text: z.string(), lines: z.int().positive().default(1) }),
    output: z.strictObject({ file: artifactRefSchema }),
    run: async ({ text }, { store, workDirectory }) => {
      ran.push(text);
      await writeFile(join(workDirectory, 'file'), text);
      return { file: await store.putFile(join(workDirectory, 'file'), 'text/plain') };
    },
    finish: ({ text }) => Promise.resolve(void finished.push(text)),
  });
  return { stage, ran, finished };
}

const ref = (change: Partial<ArtifactRef> = {}): ArtifactRef => ({ uri: 'file:///a', sha256: 'a'.repeat(64), bytes: 3, mediaType: 'text/plain', ...change });

describe('stageKey', () => {
  const stage = { name: 'train', version: 1 };

  it('does not depend on the order of keys or on undefined fields', () =>
    expect(stageKey(stage, { a: 1, b: { c: 2, d: 3 } })).toBe(stageKey(stage, { b: { d: 3, c: 2 }, a: 1, e: undefined })));

  it('counts an artifact by its digest, wherever it is', () => {
    expect(stageKey(stage, { file: ref() })).toBe(stageKey(stage, { file: ref({ uri: 's3://b/k' }) }));
    expect(stageKey(stage, { file: ref() })).not.toBe(stageKey(stage, { file: ref({ sha256: 'b'.repeat(64) }) }));
  });

  it('counts the name of a file in a directory', () =>
    expect(stageKey(stage, [{ ...ref(), name: 'x' }])).not.toBe(stageKey(stage, [{ ...ref(), name: 'y' }])));

  it.each([
    ['name', stageKey({ name: 'merge', version: 1 }, 1)],
    ['version', stageKey({ name: 'train', version: 2 }, 1)],
    ['input', stageKey(stage, 2)],
    ['scope', stageKey(stage, 1, 'run')],
  ])('changes with the %s', (_, other) => expect(other).not.toBe(stageKey(stage, 1)));
});

describe('runStage', () => {
  it('runs once for one input and returns the first result, with its seconds, after that', async () => {
    const { stage, ran, finished } = writer();
    const its = services();
    const first = await runStage(stage, { input: { text: 'a' } }, its);
    const second = await runStage(stage, { input: { text: 'a', lines: 1 } }, its);
    expect(ran).toEqual(['a']);
    expect(second).toEqual({ ...first, reused: true });
    expect(finished).toEqual(['a', 'a']);
  });

  it('runs again for another version', async () => {
    const its = services();
    await runStage(writer().stage, { input: { text: 'a' } }, its);
    expect(await runStage(writer({ version: 2 }).stage, { input: { text: 'a' } }, its)).toMatchObject({ reused: false });
  });

  it('shares nothing between scopes, and goes on within one', async () => {
    const { stage, ran } = writer();
    const its = services();
    await runStage(stage, { input: { text: 'a' } }, its);
    await runStage(stage, { input: { text: 'a' }, scope: 'run-1' }, its);
    expect(await runStage(stage, { input: { text: 'a' }, scope: 'run-1' }, its)).toMatchObject({ reused: true });
    expect(ran).toHaveLength(2);
  });

  it('runs a stage every time that is not reusable', async () => {
    const { stage, ran } = writer({ reusable: false });
    const its = services();
    await runStage(stage, { input: { text: 'a' } }, its);
    expect(await runStage(stage, { input: { text: 'a' } }, its)).toMatchObject({ reused: false });
    expect(ran).toHaveLength(2);
    expect(await its.store.list('stages/')).toEqual([]);
  });

  it('runs again when an artifact of the result has gone, and keeps the new result', async () => {
    const { stage, ran } = writer();
    const its = services();
    const first = await runStage(stage, { input: { text: 'a' } }, its);
    await its.store.remove(objectKey(first.output.file.sha256));
    expect(await runStage(stage, { input: { text: 'a' } }, its)).toMatchObject({ reused: false });
    expect(await runStage(stage, { input: { text: 'a' } }, its)).toMatchObject({ reused: true });
    expect(ran).toHaveLength(2);
  });

  it('runs again when the stored result is unreadable', async () => {
    const { stage } = writer();
    const its = services();
    const { key } = await runStage(stage, { input: { text: 'a' } }, its);
    await its.store.remove(`stages/ingest/${key}.json`);
    await its.store.create(`stages/ingest/${key}.json`, Buffer.from('{"key":'));
    expect(await runStage(stage, { input: { text: 'a' } }, its)).toMatchObject({ reused: false });
    expect(await runStage(stage, { input: { text: 'a' } }, its)).toMatchObject({ reused: true });
  });

  it('returns the result of the attempt that was faster', async () => {
    const its = services();
    const racing = (text: string, before: () => Promise<unknown>) =>
      defineStage({
        name: 'ingest', version: 1, input: z.number(), output: z.string(),
        run: async () => {
          await before();
          return text;
        },
      });
    const fast = racing('fast', () => Promise.resolve());
    const slow = racing('slow', () => runStage(fast, { input: 1 }, its));
    expect(await runStage(slow, { input: 1 }, its)).toMatchObject({ output: 'fast' });
  });

  it('names every field of an input that does not fit', async () => {
    const error = await runStage(writer().stage, { input: { text: 1, lines: 0, more: true } }, services()).catch((err: unknown) => err);
    expect(error).toBeInstanceOf(InvalidInputError);
    expect((error as InvalidInputError).problems.map(({ path }) => path)).toEqual(['ingest.text', 'ingest.lines', 'ingest']);
  });

  it('removes its work directory, also after a failure, and stores no result then', async () => {
    const its = services();
    const stage = defineStage({
      name: 'ingest', version: 1, input: z.number(), output: z.number(),
      run: async (_, { workDirectory }) => {
        await access(workDirectory);
        throw new Error('disk full');
      },
    });
    await expect(runStage(stage, { input: 1 }, its)).rejects.toThrow('disk full');
    expect(await readdir(its.workRoot)).toEqual([]);
    expect(await its.store.list('')).toEqual([]);
  });
});

describe('what a stage has fetched', () => {
  const fetching = (signal: AbortSignal) => {
    const reports: [string, number, number][] = [];
    const run = runStage(
      defineStage({ name: 'ingest', version: 1, input: z.strictObject({}), output: z.strictObject({ path: z.string() }), run: async (_, { fetchDataset }) => ({ path: await fetchDataset(ref()) }) }),
      { input: {} },
      {
        ...services(), signal,
        progress: (...report) => void reports.push(report),
        fetchDataset: (_, progress) => {
          progress?.('fetching the dataset', 1, 2);
          return Promise.resolve('/fetched');
        },
      },
    );
    return { run, reports };
  };

  it('is reported as its progress', async () => {
    const { run, reports } = fetching(new AbortController().signal);
    expect((await run).output).toEqual({ path: '/fetched' });
    expect(reports).toEqual([['fetching the dataset', 1, 2]]);
  });

  it('ends with the run', async () => {
    await expect(fetching(AbortSignal.abort(new Error('cancelled'))).run).rejects.toThrow('cancelled');
  });
});
