import { expect, it } from 'vitest';
import type { FineTuneInput } from '../../contracts/fine-tune-config.js';
import { workflowId } from '../../cli/workflow-id.js';

const input: FineTuneInput = { name: 'mice', model: { uri: 'x' }, dataset: { uri: 'y' }, format: { response: '{a}' } };

it('gives a configuration one id, however its keys are ordered and whether results are reused', () => {
  const id = workflowId(input);
  expect(id).toMatch(/^finetune-mice-[0-9a-f]{8}$/);
  expect(workflowId({ format: { response: '{a}' }, dataset: { uri: 'y' }, model: { uri: 'x' }, name: 'mice', reuse: false })).toBe(id);
});

it('gives another configuration another id', () => {
  expect(workflowId({ ...input, train: { seed: 1 } })).not.toBe(workflowId(input));
});
