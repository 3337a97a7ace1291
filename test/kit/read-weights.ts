/** A process of its own: reads every tensor of a model, one after the other, and prints by how many bytes its memory has grown. */
import { openModel } from '../../engine/formats/open-model.js';

const resident = () => 1024 * process.resourceUsage().maxRSS;
const before = resident();
const model = await openModel(process.argv[2]);
let elements = 0;
for (const name of model.names()) elements += (await model.read(name)).length;
await model.close();
process.stdout.write(JSON.stringify({ bytes: 4 * elements, grown: resident() - before }));
