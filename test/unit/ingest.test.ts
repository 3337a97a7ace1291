import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ingestStage } from '../../activities/ingest.js';
import { fineTuneConfigSchema } from '../../contracts/fine-tune-config.js';
import { ingestOutputSchema, type IngestInput } from '../../contracts/stages.js';
import { readJsonl, stageKit } from '../kit/stage.js';

let kit: Awaited<ReturnType<typeof stageKit>>;
beforeAll(async () => void (kit = await stageKit()));
afterAll(() => kit.remove());

const csv = (rows: string[][]) => ['product,category,description', ...rows.map((row) => row.join(','))].join('\n');
const products = (count: number) => Array.from({ length: count }, (_, i) => [`p${i}`, `c${i % 3}`, `text ${i}`]);

async function inputFor(content: string, dataset: object = {}, change: Partial<IngestInput> = {}): Promise<IngestInput> {
  return {
    dataset: fineTuneConfigSchema.shape.dataset.parse({ uri: 'file:products.csv', ...dataset }),
    file: await kit.dataset('products.csv', content),
    requiredColumns: ['product', 'category', 'description'],
    promptColumns: ['product', 'category'],
    ...change,
  };
}
async function ingest(content: string, dataset: object = {}, change: Partial<IngestInput> = {}) {
  const output = ingestOutputSchema.parse(await ingestStage.run(await inputFor(content, dataset, change), kit.context));
  return { output, train: await readJsonl(kit.context, output.train), test: await readJsonl(kit.context, output.test) };
}
const refusal = async (...args: Parameters<typeof ingest>): Promise<string> => ingest(...args).then(() => 'accepted', (error: Error) => error.message);

describe('ingest', () => {
  it('splits rows into train and test, each row once', async () => {
    const { output, train, test } = await ingest(csv(products(100)), { split: { test: 0.05 } });
    expect([train.length, test.length]).toEqual([95, 5]);
    expect(new Set([...train, ...test].map(({ product }) => product)).size).toBe(100);
    expect(output.report).toMatchObject({ read: 100, train: 95, test: 5, dropped: { empty: 0, duplicate: 0, unsampled: 0, leaked: 0 } });
    expect(output.report.lengths.counts.reduce((sum, count) => sum + count)).toBe(100);
  });

  it('gives the same bytes for the same seeds and another split for another seed', async () => {
    const digests = async (dataset: object) => {
      const { output } = await ingest(csv(products(50)), dataset);
      return [output.train.sha256, output.test.sha256];
    };
    const options = { sample: { rows: 20, seed: 1 }, split: { test: 4, seed: 2 } };
    expect(await digests(options)).toEqual(await digests(options));
    expect(await digests({ ...options, split: { test: 4, seed: 3 } })).not.toEqual(await digests(options));
    expect(await digests({ ...options, sample: { rows: 20, seed: 2 } })).not.toEqual(await digests(options));
  });

  it('drops and counts rows with an empty column and exact duplicates', async () => {
    const { output } = await ingest(csv([...products(10), ['p0', 'c0', 'text 0'], ['x', ' ', 'y'], ['x', 'y', '']]), { split: { test: 1 } });
    expect(output.report).toMatchObject({ read: 13, dropped: { empty: 2, duplicate: 1 }, train: 9, test: 1 });
  });

  it('takes a sample of the file, then drops rows, and counts all of them', async () => {
    const { output } = await ingest(csv([...products(50), ...products(50)]), { sample: { rows: 90 }, split: { test: 4 } });
    const { dropped, train, test } = output.report;
    expect([dropped.unsampled, test]).toEqual([10, 4]);
    expect(dropped.duplicate).toBeGreaterThanOrEqual(40);
    expect(train + test + dropped.duplicate).toBe(90);
  });

  it('keeps duplicates when asked', async () => {
    const { output } = await ingest(csv([...products(6), ...products(6)]), { split: { test: 1 }, duplicates: 'keep', leakage: 'keep' });
    expect(output.report).toMatchObject({ dropped: { duplicate: 0, leaked: 0 }, kept: { leaked: 1 }, train: 11, test: 1 });
  });

  it('gives the rows that pandas and datasets give: frame.sample(n=6, random_state=42), then train_test_split(test_size=2, seed=42)', async () => {
    const { train, test } = await ingest(csv(products(10)), { sample: { rows: 6 }, split: { test: 2 } });
    expect([test, train].map((rows) => rows.map(({ product }) => product))).toEqual([['p0', 'p5'], ['p2', 'p7', 'p1', 'p8']]);
  });

  it('keeps only the columns that the format names, under their names in the run', async () => {
    const { output, test } = await ingest('id,Name,text\n1,a,x\n2,b,y\n', { columns: { product: 'Name' }, split: { test: 1, seed: 0 } }, {
      requiredColumns: ['product', 'text'], promptColumns: ['product'],
    });
    expect(output.columns).toEqual(['product', 'text']);
    expect([{ product: 'a', text: 'x' }, { product: 'b', text: 'y' }]).toContainEqual(test[0]);
  });
});

describe('leakage', () => {
  // Three of four rows ask the same question, so whichever are held out, train asks one of test's questions.
  const rows = csv([['Mouse', 'device', 'one'], ['mouse', ' DEVICE', 'two'], ['ｍouse', 'device ', 'three'], ['lamp', 'light', 'four']]);

  it('is refused with an example', async () => {
    expect(await refusal(rows, { split: { test: 2 } })).toMatch(
      /^dataset\.leakage: expected no row of train with a question of test, got \d of 2 \(e\.g\. product ".ouse", category " ?(device|DEVICE) ?"\); 'drop' leaves them out of train$/i,
    );
  });

  it('is dropped from train and counted when asked', async () => {
    for (const seed of [0, 1, 2, 3, 4, 5, 6, 7]) {
      const { output, train, test } = await ingest(`${rows}\ndesk,home,five\nbed,home,six`, { split: { test: 1, seed }, leakage: 'drop' });
      const key = ({ product }: Record<string, string>) => product.normalize('NFKC').toLowerCase();
      expect(train.map(key)).not.toContain(key(test[0]));
      expect(train.length).toBe(5 - output.report.dropped.leaked);
    }
  });

  it('compares whole rows where the prompt shows no column', async () => {
    const change = { promptColumns: [], requiredColumns: ['description'] };
    expect((await ingest(csv(products(10)), { split: { test: 2 } }, change)).train).toHaveLength(8);
    expect(await refusal('description\nsame\nSAME \n', { split: { test: 1 } }, change)).toMatch(/^dataset\.leakage: /);
  });

  it('that takes all of train is refused', async () => {
    expect(await refusal('product,category,description\na,b,1\nA,b,2\n', { split: { test: 1 }, leakage: 'drop' })).toBe(
      'dataset.split.test: expected a test split that leaves a row to train, got 1 of 2 rows with the questions of all others',
    );
  });
});

describe('ingest refuses', () => {
  it.each<[string, string, object, string]>([
    ['a dataset without rows', 'product,category,description\n', {}, 'dataset.uri: products.csv: expected at least one row, got none'],
    ['a dataset whose rows are all dropped', csv([['a', '', 'x'], ['', 'b', 'y']]), {},
      'dataset.uri: expected rows with text in product, category, description, got 0 of the 2 rows of products.csv (2 with an empty column and 0 duplicates were dropped)'],
    ['a share that leaves no row for train', csv(products(10)), { split: { test: 0.99 } },
      'dataset.split.test: expected at least one row for test and one for train, got 10 for test and 0 for train from 10 rows'],
    ['a number that leaves no row for train', csv(products(10)), { split: { test: 10 } },
      'dataset.split.test: expected at least one row for test and one for train, got 10 for test and 0 for train from 10 rows'],
    ['a number of rows that is not whole', csv(products(10)), { split: { test: 1.5 } },
      'dataset.split.test: expected a share below 1 or a whole number of rows, got 1.5'],
    ['a sample larger than the file', csv(products(10)), { sample: { rows: 11 } }, 'dataset.sample.rows: expected at most the 10 rows of products.csv, got 11'],
    ['columns that the file lacks', 'name,category\na,b\n', { columns: { product: 'nme' } },
      "dataset.columns.product: expected a column of the file (name, category), got 'nme'\n" +
      "format: {description}: expected a column of the dataset (name, category), got 'description'"],
  ])('%s', async (_, content, dataset, message) => expect(await refusal(content, dataset)).toBe(message));
});
