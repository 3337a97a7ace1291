import { expect, it } from 'vitest';
import { baseReference, describeOrigin, hubPin } from '../../contracts/hub-pin.js';

const commit = 'c'.repeat(40);

it.each([
  [`hf://models/a/b@${commit}/model.safetensors`, { repository: 'hf://a/b', commit }],
  [`hf://datasets/a/b@${commit}/data/train.csv`, { repository: 'hf://datasets/a/b', commit }],
  ['hf://a/b', undefined],
  ['file:///a/b@c/d', undefined],
])('%s is pinned to %j', (uri, expected) => expect(hubPin(uri)).toEqual(expected));

it('names the commit that files were taken at once, and what the user named where there is none', () => {
  expect(describeOrigin('hf://a/b@v1', ['x', 'y'].map((name) => ({ uri: `hf://models/a/b@${commit}/${name}` })))).toBe(`hf://a/b at commit ${commit}`);
  expect(describeOrigin(['file:a.csv', 'file:b.csv'], [{ uri: 'file:///data/a.csv' }])).toBe('file:a.csv, file:b.csv');
});

it('calls a base model as Python does', () => {
  expect(baseReference({ uri: 'hf://a/b@v1', files: [{ uri: `hf://models/a/b@${commit}/config.json` }] })).toEqual({ name: 'a/b', revision: commit });
  expect(baseReference({ uri: 'file:model', files: [{ uri: 'file:///data/model/config.json' }] })).toEqual({ name: 'file:model' });
});
