// The request of the form as commands to copy.

const address = new URL(".", location.href).href.replace(/\/$/, "");
const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function rowOf(fields) {
  return Object.fromEntries(fields.map((field) => [field.column.name, field.text]));
}

export function curl(model, fields, hasKey) {
  const key = hasKey ? ' -H "Authorization: Bearer $MAPSTO_KEY"' : "";
  if (fields.some((field) => field.column.suffixes)) {
    const parts = fields.map((field) => (field.column.suffixes
      ? ` -F ${shell(`${field.column.name}=@${field.file?.name ?? `file${field.column.suffixes[0]}`}`)}`
      : ` -F ${shell(`${field.column.name}=${field.text}`)}`));
    return `curl ${shell(`${address}/${model.route}?model=${encodeURIComponent(model.name)}`)}${key}${parts.join("")}`;
  }
  const body = JSON.stringify({ model: model.name, rows: [rowOf(fields)] });
  return `curl ${address}/${model.route}${key} -H 'Content-Type: application/json' -d ${shell(body)}`;
}

export function python(model, fields, hasKey) {
  const lines = [];
  const cells = fields.map((field) => {
    if (!field.column.suffixes) return `${JSON.stringify(field.column.name)}: ${JSON.stringify(field.text)}`;
    const name = field.file?.name ?? `file${field.column.suffixes[0]}`;
    return `${JSON.stringify(field.column.name)}: {"base64": base64.b64encode(open(${JSON.stringify(name)}, "rb").read()).decode()}`;
  });
  const imports = ["import json", "import urllib.request"];
  if (fields.some((field) => field.column.suffixes)) imports.unshift("import base64");
  if (hasKey) imports.splice(imports.length - 1, 0, "import os");
  lines.push(...imports, "");
  lines.push(`rows = [{${cells.join(", ")}}]`);
  lines.push(`body = json.dumps({"model": ${JSON.stringify(model.name)}, "rows": rows}).encode()`);
  const key = hasKey ? ', "Authorization": "Bearer " + os.environ["MAPSTO_KEY"]' : "";
  lines.push(`headers = {"Content-Type": "application/json"${key}}`);
  lines.push(`request = urllib.request.Request("${address}/${model.route}", body, headers)`);
  lines.push('print(json.load(urllib.request.urlopen(request))["answers"])');
  return lines.join("\n");
}
