# The options of NixOS that the modules and the tests set, and no others: a definition of anything
# else fails. So does a key that systemd does not know.
{ lib, ... }:
let
  inherit (lib) mkOption types;
  option =
    type: default:
    mkOption {
      inherit type default;
      description = "As in NixOS.";
    };
  scalar = types.either types.str (types.either types.int types.bool);
  value = types.either scalar (types.listOf scalar);

  # Keys of a section, each null unless it is set.
  section = names: types.submodule { options = lib.genAttrs names (_name: option (types.nullOr value) null); };

  unitOptions = {
    description = option types.str "";
    wantedBy = option (types.listOf types.str) [ ];
    wants = option (types.listOf types.str) [ ];
    after = option (types.listOf types.str) [ ];
    bindsTo = option (types.listOf types.str) [ ];
    unitConfig = option (section [ "RequiresMountsFor" ]) { };
  };

  # systemd.service(5), systemd.exec(5), systemd.resource-control(5)
  service = section [
    "AmbientCapabilities"
    "CacheDirectory"
    "CacheDirectoryMode"
    "CapabilityBoundingSet"
    "DeviceAllow"
    "DevicePolicy"
    "DynamicUser"
    "EnvironmentFile"
    "ExecStart"
    "ExecStartPre"
    "ExecStopPost"
    "Group"
    "KeyringMode"
    "LimitNOFILE"
    "LoadCredential"
    "LockPersonality"
    "MemoryDenyWriteExecute"
    "MountFlags"
    "NoNewPrivileges"
    "PrivateDevices"
    "PrivateMounts"
    "PrivateTmp"
    "PrivateUsers"
    "ProcSubset"
    "ProtectClock"
    "ProtectControlGroups"
    "ProtectHome"
    "ProtectHostname"
    "ProtectKernelLogs"
    "ProtectKernelModules"
    "ProtectKernelTunables"
    "ProtectProc"
    "ProtectSystem"
    "ReadOnlyPaths"
    "ReadWritePaths"
    "RemoveIPC"
    "Restart"
    "RestartSec"
    "RestrictAddressFamilies"
    "RestrictNamespaces"
    "RestrictRealtime"
    "RestrictSUIDSGID"
    "RuntimeDirectory"
    "RuntimeDirectoryPreserve"
    "StateDirectory"
    "StateDirectoryMode"
    "SystemCallArchitectures"
    "SystemCallErrorNumber"
    "SystemCallFilter"
    "TimeoutStartSec"
    "TimeoutStopSec"
    "Type"
    "UMask"
    "User"
  ];
in
{
  options = {
    assertions = option (types.listOf types.anything) [ ];
    boot.kernelModules = option (types.listOf types.str) [ ];
    environment.etc = option (types.attrsOf (types.submodule { options.text = option types.lines ""; })) { };
    environment.systemPackages = option (types.listOf types.package) [ ];
    networking.firewall.allowedTCPPorts = option (types.listOf types.port) [ ];
    nix.settings = option (types.attrsOf value) { };
    system.fsPackages = option (types.listOf types.package) [ ];
    systemd.mounts = option (types.listOf (
      types.submodule {
        options = unitOptions // {
          what = option types.str "";
          where = option types.str "";
          type = option types.str "";
          options = option types.str "";
        };
      }
    )) [ ];
    systemd.services = option (types.attrsOf (
      types.submodule {
        options = unitOptions // {
          restartIfChanged = option types.bool true;
          startLimitIntervalSec = option types.int 10;
          environment = option (types.attrsOf types.str) { };
          serviceConfig = option service { };
        };
      }
    )) { };
    systemd.tmpfiles.rules = option (types.listOf types.str) [ ];
    users.groups = option (types.attrsOf (types.submodule { })) { };
    users.users = option (types.attrsOf (
      types.submodule {
        options = {
          isSystemUser = option types.bool false;
          group = option types.str "";
          home = option types.str "/var/empty";
          description = option types.str "";
        };
      }
    )) { };
    virtualisation.additionalPaths = option (types.listOf types.package) [ ];
  };
}
