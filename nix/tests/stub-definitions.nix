# The definitions of options: a value, or one of these around it, as `_type` says: `if` (condition,
# content), `merge` (contents), `override` (priority, content).
{ lib }:
let
  inherit (builtins)
    attrNames
    concatMap
    filter
    foldl'
    isAttrs
    length
    mapAttrs
    ;

  allNames = sets: lib.unique (concatMap attrNames sets);
  isProperty = value: isAttrs value && value ? _type && value._type != "option";
  isOption = value: isAttrs value && value._type or null == "option";
  plainPriority = 100;
  defaultPriority = 1500;

  valueOf = name: set: if set ? ${name} then [ set.${name} ] else [ ];

  # The sets that a definition of a set amounts to; conditions go to the values, so that which names
  # there are never depends on the configuration.
  pushDown =
    definition:
    if !isProperty definition then
      [ definition ]
    else if definition._type == "if" then
      map (mapAttrs (_name: mkIf definition.condition)) (pushDown definition.content)
    else if definition._type == "merge" then
      concatMap pushDown definition.contents
    else
      map (mapAttrs (_name: mkOverride definition.priority)) (pushDown definition.content);

  # The values, with their priorities, that a definition of an option amounts to.
  discharge =
    priority: definition:
    if !isProperty definition then
      [
        {
          inherit priority;
          value = definition;
        }
      ]
    else if definition._type == "if" then
      if definition.condition then discharge priority definition.content else [ ]
    else if definition._type == "merge" then
      concatMap (discharge priority) definition.contents
    else
      discharge definition.priority definition.content;

  # `{ value }`, or null if nothing defines it.
  mergeDefinitions =
    loc: type: definitions:
    let
      found = concatMap (discharge plainPriority) definitions;
      strongest = foldl' (least: d: if d.priority < least then d.priority else least) 9999 found;
      values = map (d: d.value) (filter (d: d.priority == strongest) found);
      wrong = filter (value: !type.check value) values;
    in
    if found == [ ] then
      null
    else if wrong != [ ] then
      throw "a definition of the option `${lib.showOption loc}' is not of type `${type.name}'"
    else
      {
        value = type.merge loc values;
        count = length values;
      };

  mkIf = condition: content: {
    _type = "if";
    inherit condition content;
  };
  mkOverride = priority: content: {
    _type = "override";
    inherit priority content;
  };
in
{
  inherit
    isProperty
    isOption
    defaultPriority
    allNames
    valueOf
    pushDown
    mergeDefinitions
    mkIf
    mkOverride
    ;
}
