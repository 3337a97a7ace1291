import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { renderMarkdown } from '../../activities/report/markdown.js';
import { renderModelCard } from '../../activities/report/model-card.js';
import { renderPage } from '../../activities/report/page.js';
import { loadReportData, type ReportData } from '../../activities/report/report-data.js';
import { reportInput } from '../kit/report-input.js';
import { stageKit } from '../kit/stage.js';

let kit: Awaited<ReturnType<typeof stageKit>>;
let data: ReportData;
beforeAll(async () => {
  kit = await stageKit();
  data = await loadReportData(await reportInput(kit.context.store), kit.context.store);
});
afterAll(() => kit.remove());

const commit = 'c'.repeat(40);
const known = (): ReportData => ({
  ...data,
  model: { ...data.model, license: 'apache-2.0', languages: ['en'], files: data.model.files.map((file) => ({ ...file, uri: `hf://models/owner/base@${commit}/${file.name}` })) },
  dataset: { ...data.ingest.train, uri: `hf://datasets/owner/rows@${commit}/train.csv` },
});
const metadata = (card: string) => parse(/^---\n([^]*?)\n---\n/.exec(card)![1]) as Record<string, unknown>;
const row = (text: string, start: string) => text.split('\n').find((line) => line.startsWith(`| ${start}`));

describe('a model card', () => {
  it('has the metadata that the hub reads', () => {
    expect(metadata(renderModelCard(known(), 'adapter'))).toEqual({
      base_model: 'owner/base', base_model_relation: 'adapter', library_name: 'peft', pipeline_tag: 'text-generation', license: 'apache-2.0', language: ['en'],
      datasets: ['owner/rows'], tags: ['temper', 'lora', 'qlora'],
      'model-index': [{
        name: 'wordnet-descriptions',
        results: [{
          task: { type: 'text-generation', name: 'Text generation' }, dataset: { type: 'owner/rows', name: 'wordnet-artifacts', split: 'test' },
          metrics: [
            { type: 'loss', name: 'Held-out loss (nats per token)', value: 2.4178 }, { type: 'perplexity', name: 'Held-out perplexity', value: 11.22 }, { type: 'rouge', name: 'ROUGE-L', value: 0.2214 },
          ],
        }],
      }],
    });
    expect(metadata(renderModelCard(known(), 'merged'))).toMatchObject({ base_model_relation: 'finetune', library_name: 'transformers', tags: ['temper', 'lora', 'qlora', 'gguf'] });
  });

  it('leaves out what is not known', () => {
    const keys = Object.keys(metadata(renderModelCard(data, 'adapter')));
    expect(keys).toEqual(['library_name', 'pipeline_tag', 'tags', 'model-index']);
    const noReferences = { ...data, evaluate: { ...data.evaluate, metrics: { ...data.evaluate.metrics, rougeL: null } } };
    expect(renderModelCard(noReferences, 'merged')).not.toContain('type: rouge');
  });

  it('says how each is used, by whom and with what prompt', () => {
    const [adapter, merged] = [renderModelCard(known(), 'adapter'), renderModelCard(known(), 'merged')];
    expect(adapter).toContain('PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("owner/base")');
    expect(adapter).toContain('llama-cli -m BASE.gguf --lora adapter.gguf');
    expect(merged).toContain('AutoModelForCausalLM.from_pretrained("PATH/TO/THIS/DIRECTORY")');
    expect(merged).toContain('llama-cli -m model-f16.gguf');
    for (const card of [adapter, merged]) {
      expect(card).toContain('### Instruction:\nCreate a detailed description for the following product: {product}, belonging to category: {category}\n\n### Response:\n');
      expect(card).toContain('The answer follows: `{description}`, ended by `### End` and the end token.');
      expect(row(card, 'learning rate')).toBe('| learning rate | 0.0002 |');
    }
    const chat = { ...data, config: { ...data.config, format: { ...data.config.format, template: 'chat' as const } } };
    expect(renderModelCard(chat, 'merged')).toContain('The model\'s own chat template, with this as the user\'s turn:');
  });

  it('holds the results of both merges and of the checks, and no row of the data', () => {
    const card = renderModelCard(data, 'merged');
    expect(row(card, 'the dequantised')).toBe('| the dequantised weights that were trained on | 2.4766 | 1.2e-4 | 99.3% | kept |');
    expect(row(card, 'the model\'s own')).toBe('| the model\'s own weights | 2.5480 | 0.2950 | 74.5% |  |');
    for (const text of ['Corelogic', 'abacus', 'suction']) expect(card).not.toContain(text);
  });
});

describe('the report', () => {
  it('tells of the merge and the GGUF files, on the page and in Markdown', () => {
    const [page, markdown] = [renderPage(data), renderMarkdown(data)];
    expect(row(markdown, 'model-f16.gguf')).toBe('| model-f16.gguf | F16 | 2.7 MB | agrees | 1.3e-6 | 100% |');
    expect(row(markdown, 'model-q4_k_m.gguf')).toBe('| model-q4_k_m.gguf | Q4_K_M | 1.1 MB | differs: KL above 0.5 | 0.7100 | 40% |');
    expect(row(markdown, 'adapter.gguf')).toBe('| adapter.gguf | LoRA adapter | 977 KB | not checked: llama.cpp is not set up; npm run setup -- --llama-cpp does that |  |  |');
    for (const text of ['The adapter is merged onto the dequantised weights that were trained on: it is closer', 'model-q4_k_m.gguf', 'differs: KL above 0.5']) expect(page).toContain(text);
    expect(page).toContain('<a href="#merged">Merged model</a>');
  });

  it('and the cards tell what a GGUF has not', () => {
    const note = 'The adapter has no GGUF, which cannot hold DoRA; the merged model has it all.';
    const noted = { ...data, merge: { ...data.merge, notes: [note] } };
    for (const text of [renderPage(noted), renderMarkdown(noted), renderModelCard(noted, 'merged'), renderModelCard(noted, 'adapter')]) expect(text).toContain(note);
  });

  it('has nothing to say of a merge that an earlier version made', () => {
    const earlier = { ...data, merge: { merged: data.merge.merged } };
    expect(renderPage(earlier)).not.toContain('id="merged"');
    expect(renderMarkdown(earlier)).not.toContain('## Merged model');
    expect(renderModelCard(earlier, 'merged')).not.toContain('### Merge');
  });
});
