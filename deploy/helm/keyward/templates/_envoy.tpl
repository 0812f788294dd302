{{- /*
The gateway's configuration of Envoy, as YAML: files/envoy.yaml, which is envoy/envoy.yaml of the repository, with the
values in it. Its parts are found by name, so that the hardening is written down once.
*/ -}}
{{- define "keyward.envoy" -}}
{{- $gateway := .Values.gateway -}}
{{- $envoy := .Files.Get "files/envoy.yaml" | fromYaml -}}

{{- range $envoy.overload_manager.resource_monitors -}}
  {{- if eq .name "envoy.resource_monitors.global_downstream_max_connections" -}}
    {{- $_ := set .typed_config "max_active_downstream_connections" $gateway.maxConnections -}}
  {{- end -}}
{{- end -}}

{{- /* The public routes: what the rules let pass without a key, for the routes and for the guard. */ -}}
{{- $public := list -}}
{{- $routes := list -}}
{{- range $number, $rule := $gateway.filter.rules -}}
  {{- if eq $rule.access "delegated" -}}
    {{- fail (printf "gateway.filter.rules[%d]: access \"delegated\" needs another filter: write envoy.yaml yourself and name it in gateway.existingConfigMap" $number) -}}
  {{- end -}}
  {{- if has $rule.access (list "public" "optional") -}}
    {{- $match := dict -}}
    {{- if hasKey $rule.path "exact" -}}
      {{- $match = dict "path" $rule.path.exact -}}
      {{- $public = append $public (dict "url_path" (dict "path" (dict "exact" $rule.path.exact))) -}}
    {{- else if eq (default "" $rule.path.prefix) "/" -}}
      {{- $match = dict "prefix" "/" -}}
      {{- $public = append $public (dict "any" true) -}}
    {{- else if hasKey $rule.path "prefix" -}}
      {{- /* A prefix covers whole segments, with and without a slash at its end. */ -}}
      {{- $prefix := trimSuffix "/" $rule.path.prefix -}}
      {{- $match = dict "path_separated_prefix" $prefix -}}
      {{- $public = append $public (dict "url_path" (dict "path" (dict "exact" $prefix))) -}}
      {{- $public = append $public (dict "url_path" (dict "path" (dict "prefix" (printf "%s/" $prefix)))) -}}
    {{- else -}}
      {{- fail (printf "gateway.filter.rules[%d]: a template with access %q: write envoy.yaml yourself and name it in gateway.existingConfigMap" $number $rule.access) -}}
    {{- end -}}
    {{- if eq $rule.access "public" -}}
      {{- $routes = append $routes $match -}}
    {{- end -}}
  {{- end -}}
{{- end -}}

{{- range $envoy.static_resources.listeners -}}
  {{- if eq .name "gateway" -}}
    {{- $_ := set .address.socket_address "address" "0.0.0.0" -}}
    {{- $_ := set .address.socket_address "port_value" $gateway.containerPort -}}
    {{- $connection := (first (first .filter_chains).filters).typed_config -}}
    {{- if $gateway.trustedHops -}}
      {{- $_ := set $connection "xff_num_trusted_hops" $gateway.trustedHops -}}
    {{- end -}}

    {{- $host := first $connection.route_config.virtual_hosts -}}
    {{- $public_route := dict -}}
    {{- $keyed_route := dict -}}
    {{- range $host.routes -}}
      {{- if eq .route.cluster "upstream_public" -}}{{- $public_route = . -}}{{- else -}}{{- $keyed_route = . -}}{{- end -}}
    {{- end -}}
    {{- $all := list -}}
    {{- range $routes -}}
      {{- $all = append $all (set (deepCopy $public_route) "match" .) -}}
    {{- end -}}
    {{- $_ := set $host "routes" (append $all $keyed_route) -}}

    {{- range $connection.http_filters -}}
      {{- if eq .name "keyward" -}}
        {{- $_ := set .typed_config.config.vm_config.code.local "filename" (printf "/etc/keyward/%s" $gateway.filterModule) -}}
        {{- $shipped := .typed_config.config.configuration.value.control_plane -}}
        {{- $configuration := deepCopy $gateway.filter -}}
        {{- $_ := set $configuration "control_plane" (mergeOverwrite (deepCopy $shipped) (default dict $gateway.filter.control_plane)) -}}
        {{- $_ := set .typed_config.config.configuration "value" $configuration -}}
      {{- else if eq .name "keyward_guard" -}}
        {{- if $public -}}
          {{- $_ := set .typed_config.rules.policies.public_routes "permissions" $public -}}
        {{- else -}}
          {{- $_ := unset .typed_config.rules.policies "public_routes" -}}
        {{- end -}}
      {{- end -}}
    {{- end -}}
  {{- end -}}
{{- end -}}

{{- $clusters := list -}}
{{- range $envoy.static_resources.clusters -}}
  {{- $host := $gateway.upstream.host -}}
  {{- $port := $gateway.upstream.port -}}
  {{- if eq .name "keyward_control_plane" -}}
    {{- $host = include "keyward.feedHost" $ -}}
    {{- $port = include "keyward.feedPort" $ | int -}}
  {{- else if $gateway.upstream.tls.enabled -}}
    {{- $sni := default $host $gateway.upstream.tls.sni -}}
    {{- $_ := set . "transport_socket" (dict
      "name" "envoy.transport_sockets.tls"
      "typed_config" (dict
        "@type" "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
        "sni" $sni
        "common_tls_context" (dict "validation_context" (dict
          "trusted_ca" (dict "filename" "/etc/ssl/certs/ca-certificates.crt")
          "match_typed_subject_alt_names" (list (dict "san_type" "DNS" "matcher" (dict "exact" $sni))))))) -}}
  {{- end -}}
  {{- $_ := set . "type" "STRICT_DNS" -}}
  {{- $address := (first (first .load_assignment.endpoints).lb_endpoints).endpoint.address.socket_address -}}
  {{- $_ := set $address "address" $host -}}
  {{- $_ := set $address "port_value" $port -}}
  {{- $clusters = append $clusters . -}}
{{- end -}}

{{- if $gateway.metrics.enabled -}}
  {{- /* The admin interface stays on loopback: this listener passes nothing but the metrics on. */ -}}
  {{- $admin := $envoy.admin.address.socket_address -}}
  {{- $clusters = append $clusters (dict
    "name" "admin"
    "type" "STATIC"
    "connect_timeout" "1s"
    "load_assignment" (dict "cluster_name" "admin" "endpoints" (list (dict
      "lb_endpoints" (list (dict "endpoint" (dict "address" (dict "socket_address" $admin)))))))) -}}
  {{- $router := dict
    "name" "envoy.filters.http.router"
    "typed_config" (dict "@type" "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" "suppress_envoy_headers" true) -}}
  {{- $route := dict
    "match" (dict "path" "/stats/prometheus" "headers" (list (dict "name" ":method" "string_match" (dict "exact" "GET"))))
    "route" (dict "cluster" "admin" "timeout" "30s") -}}
  {{- $connection := dict
    "@type" "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    "stat_prefix" "metrics"
    "normalize_path" true
    "request_headers_timeout" "10s"
    "stream_idle_timeout" "60s"
    "common_http_protocol_options" (dict "idle_timeout" "75s")
    "route_config" (dict "name" "metrics" "virtual_hosts" (list (dict "name" "metrics" "domains" (list "*") "routes" (list $route))))
    "http_filters" (list $router) -}}
  {{- $listener := dict
    "name" "metrics"
    "address" (dict "socket_address" (dict "address" "0.0.0.0" "port_value" $gateway.metrics.port))
    "per_connection_buffer_limit_bytes" 32768
    "ignore_global_conn_limit" true
    "filter_chains" (list (dict "filters" (list (dict "name" "envoy.filters.network.http_connection_manager" "typed_config" $connection)))) -}}
  {{- $_ := set $envoy.static_resources "listeners" (append $envoy.static_resources.listeners $listener) -}}
{{- end -}}
{{- $_ := set $envoy.static_resources "clusters" $clusters -}}
{{- toYaml $envoy -}}
{{- end -}}
