import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { readConfigFile } from '../../cli/read-config-file.js';

const directory = new URL('../../examples/', import.meta.url).pathname;
const examples = (await readdir(directory, { recursive: true })).filter((name) => name.endsWith('.json'));

it('has examples for the built-in, hub, local and S3 sources', () => {
  expect(examples).toEqual(expect.arrayContaining(['quickstart.json', 'ci.json', 'hub.json', 'local-csv.json', 's3-parquet.json']));
});

it.each(examples)('%s is a valid configuration', async (name) => {
  await expect(readConfigFile(join(directory, name))).resolves.toMatchObject({ name: expect.any(String) as string });
});
