// Render the icons whose names are listed in a file as PNG files: node render.mjs MODULES SET LIST FOLDER SIZE
import { createRequire } from 'node:module';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const [modules, set, list, folder, size] = process.argv.slice(2);
const require = createRequire(join(modules, 'x.js'));
const { Resvg } = require('@resvg/resvg-js');
const icons = require(`@iconify-json/${set}/icons.json`);

for (const name of readFileSync(list, 'utf8').split('\n').filter(Boolean)) {
  const icon = icons.icons[name] ?? icons.icons[icons.aliases?.[name]?.parent];
  if (!icon) throw new Error(`${set} has no icon named ${name}`);
  const width = icon.width ?? icons.width ?? 16;
  const height = icon.height ?? icons.height ?? 16;
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 ${width} ${height}">${icon.body}</svg>`;
  const image = new Resvg(svg, { fitTo: { mode: 'width', value: Number(size) } }).render();
  writeFileSync(join(folder, `${name}.png`), image.asPng());
}
